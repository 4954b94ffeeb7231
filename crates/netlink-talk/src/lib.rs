//! What the clients of this workspace share, so that a fix for one of them holds for all:
//!
//! - [`Socket`]: a netlink socket to the kernel. A signal does not disturb it (EINTR), lost answers are
//!   an error and leave nothing behind (ENOBUFS), an answer to another request is not taken for this
//!   one's, and nothing waits for an answer that will not come.
//! - [`Answers`]: what came of requests; a list that was disturbed (`NLM_F_DUMP_INTR`) is asked for again,
//!   and the kernel's own words are kept.
//! - [`Owner`]: the process that opened something. After a fork two processes would read each other's
//!   answers.
//! - [`Namespace`], [`namespace::run_in`]: the network namespace that a client belongs to.
//! - [`setting`]: reading, writing and restoring the files in /proc/sys.
//! - [`names`]: names that are bytes to the kernel, as text.
//!
//! It is the layer under `ipvs-client` and `netns-link`, which are what programs use.
//! Its API follows theirs.
#![forbid(unsafe_code)]
// Where the pages of other crates link to, if they are built alone.
#![doc(html_root_url = "https://docs.rs/netlink-talk/latest")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answers;
#[doc = include_str!("design.md")]
pub mod design {}
mod inbox;
mod message;
pub mod names;
pub mod namespace;
mod owner;
pub mod setting;
mod socket;

use std::io;

pub use crate::{
    answers::{Answers, Failure, words_in, words_of},
    message::{NETLINK_HEADER, Raw, start_message},
    namespace::Namespace,
    owner::{OtherProcess, Owner},
    socket::{Socket, no_answer, prepare},
};

/// Repeats a system call that a signal interrupted.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_no_failure() {
        let mut signals = 3;
        let result = uninterrupted(|| {
            signals -= 1;
            match signals {
                0 => Ok("done"),
                _ => Err(io::ErrorKind::Interrupted.into()),
            }
        });
        assert!(matches!(result, Ok("done")));
        let other: io::Result<()> = uninterrupted(|| Err(io::ErrorKind::WouldBlock.into()));
        assert!(other.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    }
}
