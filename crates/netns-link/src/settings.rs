use std::{
    ffi::OsStr,
    fmt, fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    str::FromStr,
};

use netlink_talk::{
    names,
    setting::{self, Changed},
};

use crate::{
    error::{Error, ErrorKind, Incomplete, Operation},
    links::number,
    name::valid_name,
    netns::NetNs,
};

/// A setting of a namespace: one of those that `sysctl net` shows.
///
/// Parsed from and shown in sysctl's notation: `net.ipv4.conf.all.arp_ignore`. Those of one
/// interface exist for each link by its name, for `all`, and for `default`, which links made later
/// start with.
///
/// In the caller's own namespace, anybody may read settings (except for a few secrets, such as
/// `net.ipv4.tcp_fastopen_key`), and writing needs CAP_NET_ADMIN; for most settings root will do.
/// In another namespace, CAP_SYS_ADMIN is needed too, to enter it.
///
/// ```no_run
/// use netns_link::{NetNs, Setting};
///
/// Setting::ip_forward().write(&NetNs::current()?, 1)?; // sysctl -w net.ipv4.ip_forward=1
/// # Ok::<(), netns_link::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct Setting {
    /// Below /proc/sys.
    path: String,
}

impl Setting {
    /// Any setting of a namespace, in sysctl's notation or by its path below /proc/sys:
    /// `net.ipv4.vs.conntrack`, `net/ipv4/vs/conntrack`.
    ///
    /// The first dot or slash says which, as for sysctl: where parts are separated by dots, a dot in the
    /// name of a link is a slash (`net.ipv4.conf.eth0/100.rp_filter`).
    ///
    /// # Errors
    /// If the setting does not lie in `net` ([`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub fn new(name: &str) -> Result<Self, Error> {
        let path = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
            Some(b'.') => swapped(name),
            _ => name.to_owned(),
        };
        let strange = |part: &str| part.is_empty() || part == "." || part == "..";
        if !path.starts_with("net/") || path.split('/').any(strange) || path.contains('\0') {
            let rule = "it is no setting of a network namespace, such as net.ipv4.ip_forward or \
                        net/ipv4/ip_forward";
            return Err(Error::invalid(format_args!("setting {name:?}"), rule));
        }
        Ok(Self { path })
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
    /// default): for any address of its own; 1: only for those of the interface on which the
    /// request came; values to 8 are stricter still. The greater of `all` and the interface
    /// counts.
    ///
    /// # Errors
    /// If no link can have the name.
    pub fn arp_ignore(interface: &str) -> Result<Self, Error> {
        Self::ipv4_conf(interface, "arp_ignore")
    }

    /// `net.ipv4.conf.INTERFACE.arp_announce`: which source its own ARP requests have. 0 (the
    /// default): any address; 1: preferably one of the interface that it leaves by; 2: always such
    /// a one. The greater of `all` and the interface counts.
    ///
    /// # Errors
    /// If no link can have the name.
    pub fn arp_announce(interface: &str) -> Result<Self, Error> {
        Self::ipv4_conf(interface, "arp_announce")
    }

    /// `net.ipv4.conf.INTERFACE.rp_filter`: whether the route back to a packet's source is
    /// checked. 0 (the default): no; 1: it must lead to the same interface; 2: to any. The greater
    /// of `all` and the interface counts. A tunnelled real server needs 0 on the tunnel's link
    /// and on `all`; 2 is enough only where the tunnel's link has an address.
    ///
    /// # Errors
    /// If no link can have the name.
    pub fn rp_filter(interface: &str) -> Result<Self, Error> {
        Self::ipv4_conf(interface, "rp_filter")
    }

    /// `net.ipv4.conf.INTERFACE.accept_local`: whether the host accepts packets whose source is one
    /// of its own addresses, 0 (the default) or 1. It is enough to set it for `all` or the
    /// interface.
    ///
    /// # Errors
    /// If no link can have the name.
    pub fn accept_local(interface: &str) -> Result<Self, Error> {
        Self::ipv4_conf(interface, "accept_local")
    }

    /// The value in a namespace, without the line's end: `sysctl -n NAME`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind) if there is no such setting or link, and as
    /// [`NetNs::run`].
    pub fn read(&self, namespace: &NetNs) -> Result<String, Error> {
        let operation =
            Operation::ReadSetting { setting: self.to_string(), namespace: namespace.to_string() };
        self.access(&operation, namespace, setting::read)
    }

    /// Sets the value in a namespace: `sysctl -w NAME=VALUE`.
    ///
    /// # Errors
    /// As [`read`](Setting::read); [`ErrorKind::InvalidInput`](crate::ErrorKind) if the kernel does
    /// not take the value; [`ErrorKind::PermissionDenied`](crate::ErrorKind) without CAP_NET_ADMIN;
    /// [`ErrorKind::ReadOnly`](crate::ErrorKind) if the setting is read-only or `/proc/sys` is, as
    /// in a container that is not privileged (its value can be read there).
    pub fn write(&self, namespace: &NetNs, value: impl fmt::Display) -> Result<(), Error> {
        let value = value.to_string();
        let operation = Operation::WriteSetting {
            setting: self.to_string(),
            value: value.clone(),
            namespace: namespace.to_string(),
        };
        self.access(&operation, namespace, |path| setting::write(path, &value))
    }

    /// Sets several values, in this order, and returns what was changed, so that it can be undone.
    /// A setting that has its value already is not written.
    ///
    /// # Errors
    /// As [`read`](Setting::read) and [`write`](Setting::write). The first error is returned with
    /// what was changed before it; the settings after it are not tried.
    pub fn write_all<V: fmt::Display>(
        namespace: &NetNs,
        values: impl IntoIterator<Item = (Self, V)>,
    ) -> Result<SettingChanges, Incomplete<SettingChanges>> {
        let mut done = SettingChanges::default();
        for (setting, value) in values {
            if let Err(error) = done.change(namespace, setting, &value.to_string(), |_| true) {
                return Err(Incomplete { done, error });
            }
        }
        Ok(done)
    }

    fn ipv4_conf(interface: &str, name: &str) -> Result<Self, Error> {
        Ok(Self { path: format!("net/ipv4/conf/{}/{name}", valid_name(interface)?) })
    }

    /// /proc/sys/net shows each thread the settings of its own namespace.
    fn access<T: Send>(
        &self,
        operation: &Operation,
        namespace: &NetNs,
        access: impl FnOnce(&Path) -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        namespace.run(|| {
            // A link's name is bytes.
            let below = names::from_text(&self.path);
            let path = Path::new("/proc/sys").join(OsStr::from_bytes(&below));
            access(&path).map_err(|error| explained(operation, &path, error))
        })?
    }
}

/// Settings that were changed, with the values that they had before. Dropping it changes nothing:
/// they stay changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "the settings stay changed unless this is undone"]
pub struct SettingChanges {
    changed: Vec<Changed<Setting>>,
}

impl SettingChanges {
    /// What was changed, with the values before and after.
    pub fn iter(&self) -> impl Iterator<Item = (&Setting, &str, &str)> {
        self.changed.iter().map(|change| (&change.setting, &*change.before, &*change.after))
    }

    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// Restores the earlier values, the last change first. A setting that somebody else has changed
    /// since, or that is gone with its link, is left alone.
    ///
    /// # Errors
    /// As [`Setting::write`]. The first error is returned, and the other settings are restored all
    /// the same. What could not be restored stays in this value, so that the call can be repeated.
    pub fn undo(&mut self, namespace: &NetNs) -> Result<(), Error> {
        let read = |setting: &Setting| match setting.read(namespace) {
            Ok(now) => Ok(Some(now)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let write = |setting: &Setting, before: &str| setting.write(namespace, before);
        let (kept, result) = setting::restore(std::mem::take(&mut self.changed), read, write);
        self.changed = kept;
        result
    }

    /// Takes in a change that was made before.
    pub(crate) fn note(&mut self, setting: Setting, before: &str, after: &str) {
        let (before, after) = (before.to_owned(), after.to_owned());
        self.changed.push(Changed { setting, before, after });
    }

    /// Sets a value to at least this.
    pub(crate) fn raise(
        &mut self,
        namespace: &NetNs,
        setting: Setting,
        least: u32,
    ) -> Result<(), Error> {
        let less = |now: &str| !number(now).is_ok_and(|now: u32| now >= least);
        self.change(namespace, setting, &least.to_string(), less)
    }

    fn change(
        &mut self,
        namespace: &NetNs,
        setting: Setting,
        value: &str,
        wanted: impl FnOnce(&str) -> bool,
    ) -> Result<(), Error> {
        let before = setting.read(namespace)?;
        if before != value && wanted(&before) {
            setting.write(namespace, value)?;
            // What the kernel makes of it, which is what `undo` compares.
            let after = setting.read(namespace).unwrap_or_else(|_| value.to_owned());
            self.changed.push(Changed { setting, before, after });
        }
        Ok(())
    }
}

/// In the notation of sysctl, where a dot in a name is a slash: `net.ipv4.conf.eth0/100.rp_filter`.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&swapped(&self.path))
    }
}

impl FromStr for Setting {
    type Err = Error;

    /// As [`Setting::new`].
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

text_form!(Setting);

/// Between a path and a name, which has dots for slashes and slashes for dots.
fn swapped(text: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    text.chars().map(swap).collect()
}

/// What is wrong with a setting's file, where looking at it says so.
fn explained(operation: &Operation, path: &Path, error: io::Error) -> Error {
    let why = error.kind();
    let error = Error::system(operation, error);
    match why {
        io::ErrorKind::NotFound => {
            let text = if !Path::new("/proc/sys/net").exists() {
                "/proc/sys is not mounted".to_owned()
            } else if let Some(interface) = missing_interface(path) {
                format!("there is no link {interface}, or it has no such settings")
            } else {
                "this namespace does not have it: the kernel may be without it, its module not \
                 loaded, or only the host's first namespace may have it"
                    .to_owned()
            };
            error.with_meaning(ErrorKind::NotFound, &text)
        }
        io::ErrorKind::PermissionDenied
            if matches!(operation, Operation::WriteSetting { .. })
                && fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o222 == 0) =>
        {
            error.with_meaning(ErrorKind::ReadOnly, "this setting is read-only")
        }
        _ => error,
    }
}

/// The interface whose settings are missing as a whole.
fn missing_interface(path: &Path) -> Option<String> {
    let directory = path.parent()?;
    let of_interfaces = ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"]
        .map(Path::new)
        .contains(&directory.parent()?);
    (of_interfaces && directory.parent()?.exists() && !directory.exists())
        .then(|| directory.file_name().map(|name| names::to_text(name.as_bytes())))
        .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names() {
        assert_eq!(Setting::ip_forward().to_string(), "net.ipv4.ip_forward");
        let vlan = Setting::rp_filter("eth0.100").unwrap();
        assert_eq!(vlan.to_string(), "net.ipv4.conf.eth0/100.rp_filter");
        for name in ["net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"] {
            assert_eq!(name.parse::<Setting>().unwrap(), vlan);
        }
        for path in ["", "net", "kernel/pid_max", "net/../kernel/pid_max", "net//x", "/net/x"] {
            assert_eq!(Setting::new(path).unwrap_err().kind(), ErrorKind::InvalidInput, "{path}");
        }
        for dots in ["net.ipv4.ip_forward", "net/ipv4/ip_forward"] {
            assert_eq!(Setting::new(dots).unwrap(), Setting::ip_forward());
        }
        let error = Setting::new("kernel.pid_max").unwrap_err().to_string();
        assert!(error.contains("net.ipv4.ip_forward"), "{error}");
        assert_eq!(Setting::arp_ignore("../all").unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_not_there() {
        let here = NetNs::current().unwrap();
        let missing: Setting = "net.ipv4.no_such_setting".parse().unwrap();
        let error = missing.read(&here).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("this namespace does not have it"), "{error}");
        let error = Setting::rp_filter("no-link").unwrap().read(&here).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("there is no link no-link"), "{error}");
    }

    proptest! {
        #[test]
        fn notation_survives(parts in vec("[a-z0-9._]{1,6}", 1..5)) {
            let strange = |part: &String| part == "." || part == "..";
            prop_assume!(!parts.iter().any(strange));
            let setting = Setting::new(&format!("net/{}", parts.join("/"))).unwrap();
            prop_assert_eq!(setting.to_string().parse::<Setting>().unwrap(), setting);
        }

        #[test]
        fn any_text_is_a_setting_or_an_error(text: String) {
            let _ = text.parse::<Setting>();
        }
    }
}
