//! Test topologies: bridges, veth pairs and routes, which the public crates leave out.
