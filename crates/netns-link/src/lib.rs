//! Network namespaces, dummy links, addresses and the ARP settings of direct-routing real servers.
