//! What calls keep of the replies: those that they asked for.

#![allow(clippy::needless_pass_by_value, reason = "all are used alike")]

use ipvs_packet::{DaemonEntry, DestinationEntry, Info, Reply, ServiceEntry, Timeouts, Unreadable};

pub(crate) fn service(
    reply: Result<Reply, Unreadable>,
) -> Option<Result<ServiceEntry, Unreadable>> {
    let entry = |reply| if let Reply::Service(entry) = reply { Some(entry) } else { None };
    reply.map(entry).transpose()
}

pub(crate) fn destination(
    reply: Result<Reply, Unreadable>,
) -> Option<Result<DestinationEntry, Unreadable>> {
    let entry = |reply| if let Reply::Destination(entry) = reply { Some(entry) } else { None };
    reply.map(entry).transpose()
}

pub(crate) fn daemon(reply: Result<Reply, Unreadable>) -> Option<Result<DaemonEntry, Unreadable>> {
    let entry = |reply| if let Reply::Daemon(entry) = reply { Some(entry) } else { None };
    reply.map(entry).transpose()
}

pub(crate) fn timeouts(reply: Result<Reply, Unreadable>) -> Option<Timeouts> {
    if let Ok(Reply::Timeouts(timeouts, _)) = reply { Some(timeouts) } else { None }
}

pub(crate) fn info(reply: Result<Reply, Unreadable>) -> Option<Info> {
    if let Ok(Reply::Info(info, _)) = reply { Some(info) } else { None }
}
