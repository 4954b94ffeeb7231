//! Linux IPVS (IP Virtual Server) generic netlink messages, typed and lossless.

#![forbid(unsafe_code)]

mod attribute;
mod command;
mod daemon;
mod destination;
mod error;
mod key;
mod message;
mod name;
mod netmask;
mod number;
#[cfg(feature = "serde")]
mod serialize;
mod service;
mod settings;
mod statistics;
#[cfg(feature = "proptest")]
pub mod strategy;

pub use crate::{
    attribute::{Level, UnknownAttributes},
    command::{Command, FAMILY_NAME, FAMILY_VERSION},
    daemon::{DaemonEntry, DaemonRole, SyncDaemon, SyncId},
    destination::{
        Destination, DestinationEntry, ForwardMethod, Thresholds, Tunnel, TunnelFlags, TunnelType,
        Weight,
    },
    error::{InvalidValue, ParseError},
    key::{AddressFamily, DestinationKey, Protocol, ServiceKey},
    message::{Reply, Request},
    name::{EngineName, InterfaceName, SchedulerName},
    netmask::{Ipv6Prefix, Netmask},
    service::{Service, ServiceEntry, ServiceFlags},
    settings::{Info, Timeouts, Version},
    statistics::Statistics,
};
