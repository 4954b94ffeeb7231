//! Tells systemd how it goes: the protocol of `sd_notify(3)`.

use std::{
    os::unix::net::{SocketAddr, UnixDatagram},
    os::{linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _},
};

/// Sends a state such as `READY=1`, if a service manager started this process. That it does not hear it is
/// no failure.
pub(crate) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}
