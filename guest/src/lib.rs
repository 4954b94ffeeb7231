//! Puts a process on a Linux kernel that has IPVS.
