//! Virtual services and real servers of the Linux load balancer (IPVS): say what should be, apply it.
