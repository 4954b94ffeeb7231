//! Async client for Linux IPVS, the kernel's load balancer, over generic netlink.
