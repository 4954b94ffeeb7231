//! Linux IPVS (IP Virtual Server) generic netlink messages, typed and lossless.
