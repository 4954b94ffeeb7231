//! What runs on this machine.

pub(crate) mod launcher;
pub(crate) mod native;
pub(crate) mod run;
pub(crate) mod supervise;

mod apt;
mod cache;
mod candidates;
mod engine;
mod fetch;
mod initramfs;
mod job;
mod kernel;
mod notes;
mod processor;
mod progress;
mod qemu;
mod shim;
mod streams;
mod terminal;
mod traffic;
mod uml;
mod visible;
mod ways;
