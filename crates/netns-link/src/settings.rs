use std::{
    fmt, fs,
    io::{self, Write},
    path::PathBuf,
};

use crate::{error::Error, link::valid_name, netns::NetNs};

/// A setting of a namespace: one of those that `sysctl net` shows.
///
/// Shown as sysctl names it: `net.ipv4.conf.all.arp_ignore`. Those of one interface exist for each
/// link by its name, for `all`, and for `default`, which links made later start with.
///
/// ```no_run
/// use netns_link::{NetNs, Setting};
///
/// Setting::ip_forward().write(&NetNs::current()?, 1)?; // sysctl -w net.ipv4.ip_forward=1
/// # Ok::<(), netns_link::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setting {
    /// Below /proc/sys.
    path: String,
}

impl Setting {
    /// Any setting of a namespace, by its path below /proc/sys: `net/ipv4/vs/conntrack`.
    ///
    /// # Errors
    /// If the path does not lie in `net` ([`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub fn new(path: &str) -> Result<Self, Error> {
        let strange = |part: &str| part.is_empty() || part == "." || part == "..";
        if !path.starts_with("net/") || path.split('/').any(strange) || path.contains('\0') {
            let rule = "it is not a path like net/ipv4/ip_forward";
            return Err(Error::InvalidName { what: "setting", name: path.to_owned(), rule });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// `net.ipv4.ip_forward`: whether IPv4 packets are forwarded, 0 (the default) or 1. A director
    /// that masquerades needs it when the client is not the director itself.
    pub fn ip_forward() -> Self {
        Self { path: "net/ipv4/ip_forward".to_owned() }
    }

    /// `net.ipv6.conf.INTERFACE.forwarding`: the same for IPv6; `all` sets every interface.
    ///
    /// # Errors
    /// If no link can have the name, as for all settings of an interface.
    pub fn ipv6_forwarding(interface: &str) -> Result<Self, Error> {
        Ok(Self { path: format!("net/ipv6/conf/{}/forwarding", valid_name(interface)?) })
    }

    /// `net.ipv4.conf.INTERFACE.arp_ignore`: to which ARP requests the host answers. 0 (the
    /// default): for any address of its own; 1: for those of the interface that was asked; up to
    /// 8. The greater one of `all` and the interface counts.
    ///
    /// # Errors
    /// If no link can have the name.
    pub fn arp_ignore(interface: &str) -> Result<Self, Error> {
        Self::ipv4_conf(interface, "arp_ignore")
    }

    /// `net.ipv4.conf.INTERFACE.arp_announce`: which source its own ARP requests have. 0 (the
    /// default): any address; 1: preferably, 2: always one of the interface that is asked. The
    /// greater one of `all` and the interface counts.
    ///
    /// # Errors
    /// If no link can have the name.
    pub fn arp_announce(interface: &str) -> Result<Self, Error> {
        Self::ipv4_conf(interface, "arp_announce")
    }

    /// `net.ipv4.conf.INTERFACE.rp_filter`: whether the route back to a packet's source is
    /// checked. 0 (the default): no; 1: it must lead to the same interface; 2: to any. The greater
    /// one of `all` and the interface counts. A tunnelled real server needs 0 on the tunnel's link
    /// and on `all`; 2 is enough only where the tunnel's link has an address.
    ///
    /// # Errors
    /// If no link can have the name.
    pub fn rp_filter(interface: &str) -> Result<Self, Error> {
        Self::ipv4_conf(interface, "rp_filter")
    }

    /// `net.ipv4.conf.INTERFACE.accept_local`: whether packets with a source that is an address of
    /// the host itself are taken, 0 (the default) or 1. One of `all` and the interface is enough.
    ///
    /// # Errors
    /// If no link can have the name.
    pub fn accept_local(interface: &str) -> Result<Self, Error> {
        Self::ipv4_conf(interface, "accept_local")
    }

    /// The value in a namespace, without the line's end: `sysctl -n NAME`.
    ///
    /// # Errors
    /// If there is no such setting ([`ErrorKind::NotFound`](crate::ErrorKind)), and as
    /// [`NetNs::run`].
    pub fn read(&self, namespace: &NetNs) -> Result<String, Error> {
        let value = self.access("read setting", namespace, fs::read_to_string)?;
        Ok(value.trim_end().to_owned())
    }

    /// Sets the value in a namespace: `sysctl -w NAME=VALUE`.
    ///
    /// # Errors
    /// As [`read`](Setting::read), and if the kernel does not take the value
    /// ([`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub fn write(&self, namespace: &NetNs, value: impl fmt::Display) -> Result<(), Error> {
        let value = value.to_string();
        self.access("write setting", namespace, |path| {
            // Not `fs::write`, which would try to create what is missing.
            fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
        })
    }

    fn ipv4_conf(interface: &str, name: &str) -> Result<Self, Error> {
        Ok(Self { path: format!("net/ipv4/conf/{}/{name}", valid_name(interface)?) })
    }

    /// /proc/sys/net shows each thread the settings of its own namespace.
    fn access<T: Send>(
        &self,
        step: &'static str,
        namespace: &NetNs,
        access: impl FnOnce(PathBuf) -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        namespace
            .run(|| access(PathBuf::from("/proc/sys").join(&self.path)))?
            .map_err(|error| Error::refused(step, format_args!("{self} in {namespace}"), error))
    }
}

/// In the notation of sysctl, where a dot in a name is a slash: `net.ipv4.conf.eth0/100.rp_filter`.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let swap = |c| match c {
            '/' => '.',
            '.' => '/',
            c => c,
        };
        f.write_str(&self.path.chars().map(swap).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names() {
        assert_eq!(Setting::ip_forward().to_string(), "net.ipv4.ip_forward");
        let vlan = Setting::rp_filter("eth0.100").unwrap();
        assert_eq!(vlan.to_string(), "net.ipv4.conf.eth0/100.rp_filter");
        for path in ["", "net", "kernel/pid_max", "net/../kernel/pid_max", "net//x", "/net/x"] {
            assert_eq!(Setting::new(path).unwrap_err().kind(), ErrorKind::InvalidInput, "{path}");
        }
        assert_eq!(Setting::arp_ignore("../all").unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_not_there() {
        let here = NetNs::current().unwrap();
        let missing = Setting::new("net/ipv4/no_such_setting").unwrap();
        // Without privilege the namespace is not even entered.
        let kind = missing.read(&here).unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::NotFound | ErrorKind::PermissionDenied), "{kind:?}");
    }
}
