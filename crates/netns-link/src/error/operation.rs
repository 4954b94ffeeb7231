//! What this crate does, as values: the words for an error, and what an error number means in
//! answer to it.

use std::{fmt, net::IpAddr};

use nix::errno::Errno;

use super::ErrorKind;

/// Something that can fail, and on what.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    CreateNamespace,
    /// By its name in the directory of `ip netns`.
    OpenNamespace(String),
    /// That of a process.
    OpenNamespaceOf(u32),
    /// By a path.
    OpenNamespaceAt(String),
    ExamineNamespace(String),
    EnterNamespace(String),
    NameNamespace(String),
    DeleteNamespace(String),
    ListNamespaces,
    /// Makes the directory of `ip netns`, by its path, a shared mount.
    ShareNames(&'static str),
    StartThread,
    StartProcess(String),
    ReadSetting {
        setting: String,
        namespace: String,
    },
    WriteSetting {
        setting: String,
        value: String,
        namespace: String,
    },
    /// Makes a netlink socket in a namespace.
    Connect(String),
    ListLinks,
    FindLink(String),
    CreateDummy(String),
    DeleteDummy(String),
    SetLink {
        link: String,
        change: LinkChange,
    },
    /// Announces addresses on a link.
    Announce {
        link: String,
    },
    ListAddresses,
    AddAddress {
        address: Text,
        link: String,
    },
    ReplaceAddress {
        address: Text,
        link: String,
    },
    DeleteAddress {
        address: Text,
        link: String,
    },
    FindAddress {
        address: Text,
        link: String,
    },
    ListRoutes,
    AddRoute {
        route: Text,
        link: String,
    },
    ReplaceRoute {
        route: Text,
        link: String,
    },
    DeleteRoute {
        route: Text,
        link: String,
    },
}

/// An address or a route in words, and the address by which its family is known. The words, not the
/// object: an error says what was done, and everything else may fail with one.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) ip: IpAddr,
    pub(crate) text: String,
}

impl Text {
    pub(crate) fn new(ip: IpAddr, object: &impl fmt::Display) -> Self {
        Self { ip, text: object.to_string() }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A change to a link itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinkChange {
    Up,
    Down,
    Arp(bool),
    Mtu(u32),
    Namespace,
}

impl Operation {
    /// What an error number means in answer to this, and the words for it. There is advice in them
    /// only where the number can mean nothing else.
    pub(crate) fn meaning(&self, errno: Errno) -> (ErrorKind, String) {
        let (kind, text) = match (self, errno) {
            (_, Errno::EMFILE) => (
                ErrorKind::LimitReached,
                "this process has as many open files as it may: raise its limit (RLIMIT_NOFILE, \
                 ulimit -n)",
            ),
            (_, Errno::ENFILE) => (
                ErrorKind::LimitReached,
                "the system has as many open files as it may: raise fs.file-max",
            ),
            (_, Errno::EROFS) => return self.read_only(),
            (Self::CreateNamespace, Errno::ENOSPC) => (
                ErrorKind::LimitReached,
                "there are as many network namespaces as may be: raise user.max_net_namespaces",
            ),
            (Self::CreateNamespace, Errno::EPERM) => {
                (ErrorKind::PermissionDenied, "CAP_SYS_ADMIN is needed to make a network namespace")
            }
            (Self::EnterNamespace(_), Errno::EPERM) => (
                ErrorKind::PermissionDenied,
                "CAP_SYS_ADMIN is needed to enter a network namespace that is not the caller's",
            ),
            (Self::EnterNamespace(_), Errno::EINVAL) => {
                (ErrorKind::InvalidInput, "it is not a network namespace")
            }
            (
                Self::NameNamespace(_) | Self::DeleteNamespace(_) | Self::ShareNames(_),
                Errno::EPERM,
            ) => (ErrorKind::PermissionDenied, "CAP_SYS_ADMIN is needed to mount and unmount"),
            (Self::OpenNamespace(_) | Self::DeleteNamespace(_), Errno::ENOENT) => {
                (ErrorKind::NotFound, "there is no network namespace of this name")
            }
            (Self::OpenNamespaceOf(_), Errno::ENOENT | Errno::ESRCH) => {
                (ErrorKind::NotFound, "there is no such process")
            }
            (Self::OpenNamespaceOf(_), Errno::EACCES | Errno::EPERM) => (
                ErrorKind::PermissionDenied,
                "the caller may not trace this process; CAP_SYS_PTRACE would allow it",
            ),
            (Self::OpenNamespaceAt(_), Errno::ENOENT) => {
                (ErrorKind::NotFound, "there is nothing at this path")
            }
            (Self::StartThread, Errno::EAGAIN) => (
                ErrorKind::LimitReached,
                "there are as many threads as may be (RLIMIT_NPROC, pids.max of the control group, \
                 kernel.threads-max)",
            ),
            (Self::StartProcess(_), Errno::ENOENT) => {
                (ErrorKind::NotFound, "there is no such program")
            }
            (Self::WriteSetting { .. }, Errno::EINVAL | Errno::ERANGE) => {
                (ErrorKind::InvalidInput, "the kernel does not take this value")
            }
            (Self::ReadSetting { .. } | Self::WriteSetting { .. }, Errno::EACCES) => (
                ErrorKind::PermissionDenied,
                "root or CAP_NET_ADMIN in the user namespace of the network namespace is needed",
            ),
            (Self::WriteSetting { .. }, Errno::EPERM) => (ErrorKind::PermissionDenied, NET_ADMIN),
            (Self::SetLink { change: LinkChange::Namespace, .. }, Errno::EPERM) => (
                ErrorKind::PermissionDenied,
                "CAP_NET_ADMIN is needed in the user namespaces of both network namespaces",
            ),
            (Self::SetLink { change: LinkChange::Namespace, .. }, Errno::EEXIST) => {
                (ErrorKind::AlreadyExists, "a link of this name is there already")
            }
            (Self::Announce { .. }, Errno::EPERM) => (
                ErrorKind::PermissionDenied,
                "CAP_NET_RAW in the user namespace of the network namespace is needed",
            ),
            (Self::Announce { .. }, Errno::ENODEV | Errno::ENXIO) => {
                (ErrorKind::NotFound, "the link does not exist (it may have been deleted)")
            }
            (Self::Announce { .. }, Errno::ENETDOWN) => (ErrorKind::Other, "the link is down"),
            (_, Errno::EPERM) if self.is_route_netlink() => {
                (ErrorKind::PermissionDenied, NET_ADMIN)
            }
            (_, Errno::ENODEV) if self.is_route_netlink() => {
                (ErrorKind::NotFound, "the link does not exist (it may have been deleted)")
            }
            (Self::CreateDummy(_), Errno::EOPNOTSUPP) => (
                ErrorKind::Unsupported,
                "the kernel has no dummy links: load the module dummy (modprobe dummy, on the host \
                 where this is a container)",
            ),
            (_, Errno::EACCES) if self.is_ipv6() => return self.ipv6_off(),
            (_, Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) if self.is_ipv6() => (
                ErrorKind::Ipv6Disabled,
                "the kernel has no IPv6: it was built or booted (ipv6.disable=1) without it, or \
                 its module is not loaded",
            ),
            (Self::AddAddress { address, .. }, Errno::EEXIST) if address.ip.is_ipv6() => {
                (ErrorKind::AlreadyExists, "the link has this address with another prefix length")
            }
            (Self::AddRoute { .. }, Errno::EEXIST) => (
                ErrorKind::AlreadyExists,
                "there is another route for this prefix and metric; replacing takes its place",
            ),
            (Self::AddRoute { .. } | Self::ReplaceRoute { .. }, Errno::ENETDOWN) => {
                (ErrorKind::Other, "the link is down; IPv6 routes need it up")
            }
            (_, errno) => (kind_of(errno), errno.desc()),
        };
        (kind, text.to_owned())
    }

    fn read_only(&self) -> (ErrorKind, String) {
        let text = match self {
            Self::WriteSetting { .. } => {
                "/proc/sys is mounted read-only, as in a container that is not privileged"
            }
            _ => "the file system is read-only",
        };
        (ErrorKind::ReadOnly, text.to_owned())
    }

    fn ipv6_off(&self) -> (ErrorKind, String) {
        let link = self.link().unwrap_or("default");
        // In the notation of sysctl, where a dot in a name is a slash.
        let link = link.replace('.', "/");
        let text = format!("IPv6 is switched off on this link (net.ipv6.conf.{link}.disable_ipv6)");
        (ErrorKind::Ipv6Disabled, text)
    }

    /// Whether the kernel answers it over route netlink.
    fn is_route_netlink(&self) -> bool {
        match self {
            Self::ListLinks
            | Self::FindLink(_)
            | Self::CreateDummy(_)
            | Self::DeleteDummy(_)
            | Self::SetLink { .. }
            | Self::ListAddresses
            | Self::ListRoutes => true,
            _ => self.ip().is_some(),
        }
    }

    fn is_ipv6(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_ipv6())
    }

    /// The address, or the route's prefix.
    fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::AddAddress { address, .. }
            | Self::ReplaceAddress { address, .. }
            | Self::DeleteAddress { address, .. }
            | Self::FindAddress { address, .. } => Some(address.ip),
            Self::AddRoute { route, .. }
            | Self::ReplaceRoute { route, .. }
            | Self::DeleteRoute { route, .. } => Some(route.ip),
            _ => None,
        }
    }

    fn link(&self) -> Option<&str> {
        match self {
            Self::AddAddress { link, .. }
            | Self::ReplaceAddress { link, .. }
            | Self::DeleteAddress { link, .. }
            | Self::FindAddress { link, .. }
            | Self::AddRoute { link, .. }
            | Self::ReplaceRoute { link, .. }
            | Self::DeleteRoute { link, .. } => Some(link),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNamespace => write!(f, "making a network namespace"),
            Self::OpenNamespace(name) => write!(f, "opening network namespace {name}"),
            Self::OpenNamespaceOf(pid) => {
                write!(f, "opening the network namespace of process {pid}")
            }
            Self::OpenNamespaceAt(path) => write!(f, "opening the network namespace at {path}"),
            Self::ExamineNamespace(name) => write!(f, "examining network namespace {name}"),
            Self::EnterNamespace(name) => write!(f, "entering network namespace {name}"),
            Self::NameNamespace(name) => write!(f, "giving a network namespace the name {name}"),
            Self::DeleteNamespace(name) => {
                write!(f, "removing the name {name} of a network namespace")
            }
            Self::ListNamespaces => write!(f, "listing the named network namespaces"),
            Self::ShareNames(path) => write!(f, "preparing {path}"),
            Self::StartThread => write!(f, "starting a thread for a network namespace"),
            Self::StartProcess(program) => write!(f, "starting {program}"),
            Self::ReadSetting { setting, namespace } => {
                write!(f, "reading {setting} in network namespace {namespace}")
            }
            Self::WriteSetting { setting, value, namespace } => {
                write!(f, "setting {setting} to {value:?} in network namespace {namespace}")
            }
            Self::Connect(namespace) => {
                write!(f, "making a netlink socket in network namespace {namespace}")
            }
            Self::ListLinks => write!(f, "listing links"),
            Self::FindLink(link) => write!(f, "looking up link {link}"),
            Self::CreateDummy(link) => write!(f, "making dummy link {link}"),
            Self::DeleteDummy(link) => write!(f, "deleting dummy link {link}"),
            Self::SetLink { link, change } => match change {
                LinkChange::Up => write!(f, "setting link {link} up"),
                LinkChange::Down => write!(f, "setting link {link} down"),
                LinkChange::Arp(true) => write!(f, "switching ARP on for link {link}"),
                LinkChange::Arp(false) => write!(f, "switching ARP off for link {link}"),
                LinkChange::Mtu(bytes) => {
                    write!(f, "setting the MTU of link {link} to {bytes} bytes")
                }
                LinkChange::Namespace => write!(f, "moving link {link} to another namespace"),
            },
            Self::Announce { link } => write!(f, "announcing addresses on link {link}"),
            Self::ListAddresses => write!(f, "listing addresses"),
            Self::AddAddress { address, link } => {
                write!(f, "adding address {address} to link {link}")
            }
            Self::ReplaceAddress { address, link } => {
                write!(f, "changing address {address} of link {link}")
            }
            Self::DeleteAddress { address, link } => {
                write!(f, "deleting address {address} from link {link}")
            }
            Self::FindAddress { address, link } => {
                write!(f, "looking up address {address} of link {link}")
            }
            Self::ListRoutes => write!(f, "listing routes"),
            Self::AddRoute { route, link } => write!(f, "adding route {route} to link {link}"),
            Self::ReplaceRoute { route, link } => {
                write!(f, "replacing route {route} of link {link}")
            }
            Self::DeleteRoute { route, link } => {
                write!(f, "deleting route {route} from link {link}")
            }
        }
    }
}

const NET_ADMIN: &str = "CAP_NET_ADMIN in the user namespace of the network namespace is needed";

/// What a number means whatever was done.
fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::EPERM | Errno::EACCES => ErrorKind::PermissionDenied,
        Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL => ErrorKind::NotFound,
        Errno::EEXIST => ErrorKind::AlreadyExists,
        Errno::EOPNOTSUPP => ErrorKind::Unsupported,
        Errno::EINVAL | Errno::ERANGE => ErrorKind::InvalidInput,
        _ => ErrorKind::Other,
    }
}
