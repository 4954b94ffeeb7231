//! Linux IPVS (IP Virtual Server) generic netlink messages, typed and lossless.
//!
//! IPVS is the kernel's load balancer for TCP, UDP and SCTP. Programs control it with messages of
//! the generic netlink family `IPVS`. This crate turns those messages into Rust values and back. It
//! does no I/O: no socket, no async, no unsafe code. It works with any socket and runs in any test.
//!
//! ```toml
//! [dependencies]
//! ipvs-packet = "0.1"
//! ```
//!
//! ```
//! use ipvs_packet::{Destination, Reply, Request, Service, ServiceKey, Weight};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // ipvsadm -A -t 10.0.0.185:80
//!     let key: ServiceKey = "-t 10.0.0.185:80".parse()?;
//!     let add_service = Request::NewService(Service::new(key));
//!
//!     // ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 3
//!     let mut destination = Destination::new("172.17.0.3:80".parse()?);
//!     destination.weight = Weight::new(3)?;
//!     let add_destination = Request::NewDestination(key, destination);
//!
//!     // What follows the netlink and generic netlink headers.
//!     let payload = add_service.to_bytes();
//!     assert_eq!(Request::parse(add_service.command(), &payload)?, add_service);
//!     # let _ = add_destination;
//!     Ok(())
//! }
//! ```
//!
//! # The protocol on one screen
//!
//! A message is a netlink header (16 bytes), a generic netlink header (4 bytes: the command, the
//! family's version, two of padding) and attributes. The family's number differs from boot to boot;
//! the generic netlink controller returns it for the name [`FAMILY_NAME`]. An attribute is `{u16
//! length, u16 number, value}`, padded to four bytes, and a value can be a nest of attributes.
//!
//! | command | request | kernel's answer |
//! |---|---|---|
//! | `NEW_SERVICE`, `SET_SERVICE` | [`Request::NewService`], [`Request::SetService`]: a whole [`Service`] | acknowledgement |
//! | `DEL_SERVICE` | [`Request::DeleteService`]: a [`ServiceKey`] | acknowledgement |
//! | `GET_SERVICE` | [`Request::GetService`]: a key; [`Request::ListServices`]: nothing, as a dump | [`Reply::Service`] under the number of `NEW_SERVICE` |
//! | `NEW_DEST`, `SET_DEST` | [`Request::NewDestination`], [`Request::SetDestination`]: a key and a whole [`Destination`] | acknowledgement |
//! | `DEL_DEST` | [`Request::DeleteDestination`]: a key and a [`DestinationKey`] | acknowledgement |
//! | `GET_DEST` | [`Request::ListDestinations`]: a key, as a dump | [`Reply::Destination`] under the number of `NEW_DEST` |
//! | `NEW_DAEMON` | [`Request::NewDaemon`]: a [`SyncDaemon`] | acknowledgement |
//! | `DEL_DAEMON` | [`Request::DeleteDaemon`]: a [`DaemonRole`] | acknowledgement |
//! | `GET_DAEMON` | [`Request::ListDaemons`]: nothing, as a dump | [`Reply::Daemon`] under the number of `NEW_DAEMON` |
//! | `SET_CONFIG` | [`Request::SetTimeouts`]: [`Timeouts`] | acknowledgement |
//! | `GET_CONFIG` | [`Request::GetTimeouts`]: nothing | [`Reply::Timeouts`] under the number of `SET_CONFIG` |
//! | `GET_INFO` | [`Request::GetInfo`]: nothing | [`Reply::Info`] under the number of `SET_INFO` |
//! | `ZERO` | [`Request::Zero`]: a key or nothing | acknowledgement |
//! | `FLUSH` | [`Request::Flush`]: nothing | acknowledgement |
//!
//! An acknowledgement or an error is a message of netlink's own, as is the end of a dump. A reply
//! carries its request's sequence number, and nothing else links the two. A destination does
//! not name its service.
//!
//! Every command needs `CAP_NET_ADMIN` in the initial user namespace, even one that only reads. It
//! applies to the network namespace in which the socket was made. There are no events: the family
//! has no multicast group.
//!
//! # Settings and state
//!
//! [`Service`], [`Destination`] and [`SyncDaemon`] are what a request carries: identity and
//! settings. [`ServiceEntry`], [`DestinationEntry`] and [`DaemonEntry`] are what the kernel
//! reports: the same, with [`Statistics`], counts of connections, and [`UnknownAttributes`].
//!
//! Open sets stay open. [`SchedulerName`] takes any name, since schedulers are modules.
//! [`ForwardMethod`], [`Protocol`], [`TunnelType`], [`DaemonRole`] and the flags keep any number,
//! since the kernel stores and returns it. A constructor refuses what the kernel or the wire format
//! cannot hold, and its error states the rule ([`InvalidValue`]): a weight above `i32::MAX`, a name
//! of more than 15 bytes, GUE without a port, a netmask of the wrong family.
//!
//! # Byte order
//!
//! - Attributes are in the machine's byte order. The ports of services, destinations and tunnels
//!   are exceptions: they are in network order. The port of a sync daemon is not.
//! - The netmask of an IPv4 service is a mask in network order. That of an IPv6 service is a prefix
//!   length in the machine's order. [`Netmask`] is both.
//! - The firewall mark and the two words of the flags are in the machine's order.
//! - An address takes 16 bytes whatever its family; IPv4 uses the first four. Another attribute
//!   holds the family. A destination from a kernel before 3.18 lacks it, and has the family of its
//!   service.
//! - In the reply to `GET_INFO` the numbers 1 and 2 mean something else than in all other messages.
//!   So a payload can only be read together with its command.
//!
//! # What can be relied on
//!
//! - Values survive: what was written reads back as the same value, unknown attributes included.
//! - Any bytes are either read or refused, without a panic, an endless loop, or an allocation
//!   larger than the input. A value that was read can be written, and reads back as the same value.
//! - Requests are, byte for byte, what ipvsadm 1.31 sends for the same command line, without the
//!   attributes that ipvsadm sends and the kernel ignores. The tests include captures from kernels.
//! - Attributes that a newer kernel adds are kept ([`UnknownAttributes`]), and so are commands
//!   ([`Reply::Other`]). `NLA_F_NESTED` is set on the nests of requests, as libnl does; when
//!   reading, it makes no difference. Padding attributes before 64-bit numbers are skipped. A
//!   number that is longer than expected is read from its first bytes. If an attribute occurs
//!   twice, the last one counts.
//! - An entry of a list that cannot be read loses no other entry: [`Reply::parse_entry`] returns as much
//!   of its identity as is known ([`Unreadable`]).
//! - An error says where: `IPVS message NEW_SERVICE: IPVS_SVC_ATTR_TIMEOUT at byte 56: too short: 2
//!   bytes where 4 are needed` ([`ParseError`]).
//! - Writing into a caller's buffer allocates nothing. Reading an entry allocates nothing unless it
//!   has unknown attributes.
//!
//! # What it does not do
//!
//! It opens no socket and resolves no family; the crate ipvs-client does. It does not check whether
//! a service makes sense; the crate lvs does. (The kernel accepts port 0 without persistence, and
//! one-packet scheduling of TCP.) It does not support the older `setsockopt`
//! interface. It does not read connections, which are only in `/proc/net/ip_vs_conn`.
//!
//! # Features
//!
//! - `serde`: readable forms, which stay the same from version to version. The formats must be
//!   self-describing (JSON, YAML, TOML).
//!
//!   A key is a string in ipvsadm's notation (`-t 10.0.0.185:80`, `172.17.0.3:80`). A scheduler,
//!   engine or interface is its name, a version is `1.2.1`. Forwarding is `masquerade`, `local`,
//!   `tunnel`, `direct` or `bypass`; a tunnel's type is `ipip`, `gue` or `gre`; a daemon's role is
//!   `master` or `backup`; a number stands for any other value. A netmask is a mask for IPv4 and a
//!   number for IPv6. Unknown attributes are a list of level, number and hexadecimal bytes.
//!
//!   Flags are a list of words, with one number for the bits that have no word. The flags of a
//!   service are `persistent`, `one-packet`, `flag-1`, `flag-2` and `flag-3`. `sh-fallback`,
//!   `sh-port`, `mh-fallback` and `mh-port` are read as well. The flags of a tunnel are `checksum`
//!   and `remote-checksum`.
//!
//!   A field that has a default may be left out, and a field that does not exist is refused.
//!   Whatever a kernel reports can be written and read back; what no kernel can report is refused.
//!   Kernels report some values that the constructors refuse: a sync id above 255, thresholds out
//!   of range or out of order, and GUE without a port. Reading takes these, so check them if a
//!   person wrote them.
//!
#![cfg_attr(
    feature = "serde",
    doc = r##"
  ```
  use ipvs_packet::{Destination, ForwardMethod, Service, ServiceFlags};

  let service: Service = serde_json::from_str(
      r#"{"key": "-t 10.0.0.185:80", "scheduler": "sh", "flags": ["sh-port"]}"#,
  )?;
  assert_eq!(service.flags, ServiceFlags::SH_PORT);

  let mut destination = Destination::new("172.17.0.3:80".parse()?);
  destination.forward = ForwardMethod::DIRECT_ROUTE;
  assert_eq!(
      serde_json::to_string(&destination)?,
      r#"{"key":"172.17.0.3:80","forward":"direct","weight":1}"#,
  );
  # Ok::<(), Box<dyn std::error::Error>>(())
  ```
"##
)]
//! - `netlink-packet`: `Message`, which has rust-netlink's traits (`Emitable` and
//!   `ParseableParametrized` of netlink-packet-core 0.9, `GenlFamily` of netlink-packet-generic
//!   0.5), for a program that already runs a netlink-proto connection. The feature `netlink-proto` of
//!   the crate `lvs` does all over one. Those crates change their API often, and this feature follows
//!   them without a new major version of this crate.
//! - `proptest`: module `strategy`, which makes every value of this crate for the property tests of
//!   dependent crates. proptest itself needs Rust 1.88.

#![forbid(unsafe_code)]
// Where the pages of other crates link to, if they are built alone.
#![doc(html_root_url = "https://docs.rs/ipvs-packet/latest")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attribute;
mod command;
mod daemon;
#[doc = include_str!("design.md")]
pub mod design {}
mod destination;
mod error;
mod key;
mod message;
mod name;
#[cfg(feature = "netlink-packet")]
mod netlink_packet;
mod netmask;
mod number;
mod open_set;
#[cfg(feature = "serde")]
mod serialize;
mod service;
mod settings;
mod statistics;
#[cfg(feature = "proptest")]
pub mod strategy;
mod unreadable;

#[cfg(feature = "netlink-packet")]
pub use crate::netlink_packet::Message;
pub use crate::{
    attribute::{Level, UnknownAttributes},
    command::{CommandNumber, FAMILY_NAME, FAMILY_VERSION},
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
    unreadable::{EntryKind, Unreadable},
};

/// The programs in the README, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
