//! Virtual services and real servers of the Linux load balancer (IPVS): say what should be, apply
//! it.

#![forbid(unsafe_code)]

mod apply;
mod invalid;
mod real_server;
mod table;
mod virtual_service;

pub use ipvs_client as client;

pub use crate::{
    apply::Change,
    invalid::{Invalid, Rule},
    real_server::RealServer,
    table::Table,
    virtual_service::{VirtualService, VirtualServiceBuilder},
};
