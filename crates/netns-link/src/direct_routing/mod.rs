//! The two ends of direct routing.

mod director;
mod real_server;

use std::net::IpAddr;

pub use self::{
    director::{Director, prepare_director},
    real_server::{RealServerArp, RealServerSetup, prepare_real_server},
};
use crate::links::Address;

/// /32 or /128, usable at once: that other hosts have it too is the point.
fn vip(ip: IpAddr) -> Address {
    Address::host(ip).nodad()
}
