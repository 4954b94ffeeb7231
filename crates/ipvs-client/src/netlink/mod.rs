//! The kernel's IPVS over one netlink socket.
//!
//! [`Socket`](socket::Socket) is opened, [`Direct`](direct::Direct) asks over it, one request after
//! the other. The rules of a request's answers ([`exchange`]), of many writes in a datagram
//! ([`batch`]) and of a snapshot ([`snapshot`]) do no I/O.

pub(crate) mod batch;
pub(crate) mod direct;
mod exchange;
mod family;
#[cfg(test)]
mod faults;
mod message;
pub(crate) mod outcomes;
pub(crate) mod reply;
pub(crate) mod snapshot;
pub(crate) mod socket;
