//! What calls keep of the replies: those that they asked for.

#![allow(clippy::needless_pass_by_value, reason = "all are used alike")]

use ipvs_packet::{DaemonEntry, DestinationEntry, Info, Reply, ServiceEntry, Timeouts};

pub(crate) fn service(reply: Reply) -> Option<ServiceEntry> {
    if let Reply::Service(entry) = reply { Some(entry) } else { None }
}

pub(crate) fn destination(reply: Reply) -> Option<DestinationEntry> {
    if let Reply::Destination(entry) = reply { Some(entry) } else { None }
}

pub(crate) fn daemon(reply: Reply) -> Option<DaemonEntry> {
    if let Reply::Daemon(entry) = reply { Some(entry) } else { None }
}

pub(crate) fn timeouts(reply: Reply) -> Option<Timeouts> {
    if let Reply::Timeouts(timeouts, _) = reply { Some(timeouts) } else { None }
}

pub(crate) fn info(reply: Reply) -> Option<Info> {
    if let Reply::Info(info, _) = reply { Some(info) } else { None }
}
