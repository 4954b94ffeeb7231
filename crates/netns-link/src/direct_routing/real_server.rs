//! What a real server of direct routing needs, and how it is undone.

use std::{
    collections::HashSet,
    fmt::{self, Write},
    fs,
    net::IpAddr,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use netlink_talk::namespace::Id;

use super::vip;
use crate::{
    blocking::Links,
    error::Error,
    links::Address,
    netns::NetNs,
    settings::{Setting, SettingChanges},
};

/// The first line of a record.
const TITLE: &str = "netns-link real-server 1";
/// What tells this run of the kernel from every other.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What setups that were undone in this process left for others that still needed it.
static LEFT: Mutex<Vec<RealServerSetup>> = Mutex::new(Vec::new());

/// Does what a real server needs for direct routing: the virtual IPs on a dummy link of its own,
/// so that it takes packets for them, and ARP settings that keep it silent about them
/// ([`RealServerArp`]), so that clients go on sending to the director.
///
/// Equivalent, in the namespace, to `sysctl -w net.ipv4.conf.all.arp_ignore=1`,
/// `sysctl -w net.ipv4.conf.all.arp_announce=2`, `ip link add LINK type dummy`,
/// `ip address add VIP/32 dev LINK` (`VIP/128 … nodad` for IPv6), `ip link set LINK up`. In this
/// order, so the host never answers for a virtual IP. What is there already stays, and undoing does
/// not remove it.
///
/// This is a plain function for async programs too. The kernel answers within each system call, so
/// it never waits, and there is no future that could be dropped half-way.
///
/// # Errors
/// As [`Setting::write`], [`Links::create_dummy`] and [`Links::add_address`]. What was done before
/// the error is undone. Where that fails too, [`Error::not_undone`] says why.
pub fn prepare_real_server(
    namespace: &NetNs,
    link: &str,
    vips: &[IpAddr],
) -> Result<RealServerSetup, Error> {
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim_end().to_owned();
    let mut setup = RealServerSetup { boot, namespace: namespace.id(), ..Default::default() };
    match setup.apply(namespace, link, vips) {
        Ok(()) => Ok(setup),
        Err(error) => Err(error.after_undoing(setup.undo(namespace))),
    }
}

/// What [`prepare_real_server`] changed, so that it can be undone. Dropping it changes nothing: the
/// real server stays prepared.
///
/// Its text is a record that can be stored, and read again after a crash or by another process:
///
/// ```no_run
/// use netns_link::{NetNs, RealServerSetup, prepare_real_server};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let here = NetNs::current()?;
/// let setup = prepare_real_server(&here, "dummy1", &[[10, 0, 0, 185].into()])?;
/// std::fs::write("/run/real-server", setup.to_string())?;
/// // … after a crash:
/// let mut setup: RealServerSetup = std::fs::read_to_string("/run/real-server")?.parse()?;
/// setup.undo(&here)?;
/// # Ok(())
/// # }
/// ```
///
/// A record that was cut off is refused. One from before a reboot has nothing left to undo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
#[must_use = "the real server stays prepared unless this is undone"]
pub struct RealServerSetup {
    boot: String,
    namespace: Id,
    arp: SettingChanges,
    /// The link, once it is there.
    link: Option<UsedLink>,
    added: Vec<Address>,
    /// The addresses of dummy links before, which need nothing of this.
    before: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct UsedLink {
    index: u32,
    name: String,
    /// Whether it was made.
    made: bool,
    /// Whether it was set up, having been down.
    raised: bool,
}

impl RealServerSetup {
    /// Removes the virtual IPs that were added, then the link if it was made, and sets down a link that was
    /// down. Then restores the ARP settings.
    ///
    /// What others still need stays: the link while it has addresses that came later, and the ARP settings
    /// while an IPv4 address came later to any dummy link of the namespace, as the virtual IPs of another
    /// setup do, whichever process made it. The last of the setups that this process undoes takes that
    /// away. It also stays in this value ([`is_undone`](Self::is_undone)) and in its record, so that
    /// it can be undone later, where the others are another process's.
    ///
    /// # Errors
    /// The first one. While a virtual IP cannot be removed, the ARP settings stay, or the host
    /// would answer for it. What could not be undone stays in this value, so that the call can
    /// be repeated. It is no error if something is gone already.
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) if it was made in another namespace.
    pub fn undo(&mut self, namespace: &NetNs) -> Result<(), Error> {
        if self.is_undone() {
            return Ok(());
        }
        if self.namespace != namespace.id() {
            let object = format!("undoing a real server's setup in network namespace {namespace}");
            return Err(Error::invalid(object, "it was made in another network namespace"));
        }
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        if !self.boot.is_empty() && self.boot != boot.trim_end() {
            *self = Self { boot: String::new(), ..Self::default() };
            return Ok(());
        }
        let links = Links::connect(namespace)?;
        self.take_away(namespace, &links)?;
        // What others left for this one, the last of them.
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain_mut(|of_other| {
            if of_other.namespace == self.namespace {
                // What fails is in the other one's own value, too.
                let _ = of_other.take_away(namespace, &links);
            }
            !of_other.is_undone()
        });
        if !self.is_undone() && !left.contains(self) {
            left.push(self.clone());
        }
        Ok(())
    }

    /// Whether nothing is left to be undone.
    pub fn is_undone(&self) -> bool {
        self.arp.is_empty() && self.link.is_none() && self.added.is_empty()
    }

    fn apply(&mut self, namespace: &NetNs, name: &str, vips: &[IpAddr]) -> Result<(), Error> {
        let links = Links::connect(namespace)?;
        self.before = of_dummies(&links)?;
        if vips.iter().any(IpAddr::is_ipv4) {
            self.arp = RealServerArp::apply(namespace)?.changes;
        }
        let dummy = links.create_dummy(name)?;
        let link = dummy.link;
        let used = self.link.insert(UsedLink {
            index: link.index,
            name: link.name.clone(),
            made: dummy.created,
            raised: false,
        });
        for address in vips.iter().copied().map(vip) {
            if links.add_address(&link, address)? {
                self.added.push(address);
            }
        }
        used.raised = !link.up;
        links.up(&link)
    }

    /// Takes away what nobody else needs.
    fn take_away(&mut self, namespace: &NetNs, links: &Links) -> Result<(), Error> {
        self.remove(links)?;
        if !self.arp.is_empty() {
            let silent = |ip: &IpAddr| ip.is_ipv4() && !self.before.contains(ip);
            if !of_dummies(links)?.iter().any(silent) {
                self.arp.undo(namespace)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, links: &Links) -> Result<(), Error> {
        let Some(used) = &self.link else { return Ok(()) };
        let now = links.find_index(used.index)?.filter(|now| now.name == used.name);
        let Some(now) = now else {
            self.link = None;
            self.added.clear();
            return Ok(());
        };
        let mut result = Ok(());
        self.added.retain(|address| match links.delete_address(&now, *address) {
            Ok(_) => false,
            Err(error) => {
                result = std::mem::replace(&mut result, Ok(())).and(Err(error));
                true
            }
        });
        result?;
        if used.made || used.raised {
            let later = |address: &Address| {
                !is_kernels(address.ip()) && (used.made || !self.before.contains(&address.ip()))
            };
            if links.addresses(&now)?.iter().any(later) {
                return Ok(());
            }
            if used.made {
                links.delete_dummy_link(now)?;
            } else {
                links.down(&now)?;
            }
        }
        self.link = None;
        Ok(())
    }
}

/// The addresses of all dummy links.
fn of_dummies(links: &Links) -> Result<Vec<IpAddr>, Error> {
    let dummies: HashSet<_> = links
        .list()?
        .into_iter()
        .filter(|link| link.kind.as_deref() == Some("dummy"))
        .map(|link| link.index)
        .collect();
    let addresses = links.all_addresses()?;
    let of_dummies = addresses.iter().filter(|(index, _)| dummies.contains(index));
    Ok(of_dummies.flat_map(|(_, addresses)| addresses).map(Address::ip).collect())
}

/// Whether the kernel made it for itself.
fn is_kernels(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The record, to its last line.
impl fmt::Display for RealServerSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boot, namespace: (device, inode), arp, link, added, before } = self;
        writeln!(f, "{TITLE}\nboot {boot}\nnamespace {device} {inode}")?;
        if let Some(UsedLink { index, name, made, raised }) = link {
            writeln!(f, "link {index} {} {} {name}", u8::from(*made), u8::from(*raised))?;
        }
        for address in added {
            writeln!(f, "address {address}")?;
        }
        for address in before {
            writeln!(f, "before {address}")?;
        }
        for (setting, before, after) in arp.iter() {
            writeln!(f, "setting {setting} {before} {after}")?;
        }
        f.write_str("end")?;
        f.write_char('\n')
    }
}

impl FromStr for RealServerSetup {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |rule: &str| Error::invalid("the record of a real server's setup", rule);
        let Some(lines) = text.strip_prefix(TITLE).and_then(|text| text.strip_suffix("\nend\n"))
        else {
            return Err(refuse("it is cut off, or something else"));
        };
        let mut setup = Self::default();
        for line in lines.lines().skip(1) {
            setup.read_line(line).ok_or_else(|| refuse("a line of it cannot be read"))??;
        }
        Ok(setup)
    }
}

impl RealServerSetup {
    fn read_line(&mut self, line: &str) -> Option<Result<(), Error>> {
        let (word, rest) = line.split_once(' ')?;
        let words: Vec<_> = rest.split(' ').collect();
        match (word, &words[..]) {
            ("boot", [boot]) => (*boot).clone_into(&mut self.boot),
            ("namespace", [device, inode]) => {
                self.namespace = (device.parse().ok()?, inode.parse().ok()?);
            }
            ("link", [index, made, raised, name]) => {
                self.link = Some(UsedLink {
                    index: index.parse().ok()?,
                    name: (*name).to_owned(),
                    made: *made == "1",
                    raised: *raised == "1",
                });
            }
            ("address", _) => match rest.parse() {
                Ok(address) => self.added.push(address),
                Err(error) => return Some(Err(error)),
            },
            ("before", [address]) => self.before.push(address.parse().ok()?),
            ("setting", [name, before, after]) => match name.parse() {
                Ok(setting) => self.arp.note(setting, before, after),
                Err(error) => return Some(Err(error)),
            },
            _ => return None,
        }
        Some(Ok(()))
    }
}

text_form!(RealServerSetup);

/// The ARP settings that a real server of direct routing needs for its IPv4 virtual IPs:
/// `net.ipv4.conf.all.arp_ignore` at least 1 and `net.ipv4.conf.all.arp_announce` at least 2.
///
/// Without the first, it answers ARP requests for the virtual IP, which is one of its addresses,
/// and clients on the same segment may send to it past the director. Without the second, its own
/// ARP requests may have the virtual IP as their source, which teaches others the same. `all` holds
/// for every link that the host has or gets. IPv6 needs nothing of the kind: neighbour discovery
/// answers only for the addresses of the link on which the request came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the settings stay unless this is undone"]
pub struct RealServerArp {
    changes: SettingChanges,
}

impl RealServerArp {
    /// Sets them in a namespace. Greater values, which are stricter, stay.
    ///
    /// # Errors
    /// As [`Setting::write`]. What was changed before the error is undone; where that fails too,
    /// [`Error::not_undone`] says why.
    pub fn apply(namespace: &NetNs) -> Result<Self, Error> {
        let mut changes = SettingChanges::default();
        let raised = Setting::arp_ignore("all")
            .and_then(|ignore| changes.raise(namespace, ignore, 1))
            .and_then(|()| Setting::arp_announce("all"))
            .and_then(|announce| changes.raise(namespace, announce, 2));
        match raised {
            Ok(()) => Ok(Self { changes }),
            Err(error) => Err(error.after_undoing(changes.undo(namespace))),
        }
    }

    /// What was changed, with the values before and after.
    pub fn changes(&self) -> &SettingChanges {
        &self.changes
    }

    /// Restores the earlier values, except where somebody else has changed them since. Whether somebody
    /// relies on them by now is not asked here, as [`RealServerSetup::undo`] does.
    ///
    /// # Errors
    /// As [`SettingChanges::undo`].
    pub fn undo(&mut self, namespace: &NetNs) -> Result<(), Error> {
        self.changes.undo(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> RealServerSetup {
        let mut arp = SettingChanges::default();
        arp.note(Setting::arp_ignore("all").unwrap(), "0", "1");
        arp.note(Setting::arp_announce("all").unwrap(), "0", "2");
        RealServerSetup {
            boot: "6f0c8c3e-9b1e-4d7b-8a5e-0d8d1f6f7a11".to_owned(),
            namespace: (4, 4_026_532_000),
            arp,
            link: Some(UsedLink { index: 7, name: r"x\xffy".to_owned(), made: true, raised: true }),
            added: vec!["10.0.0.185".parse().unwrap(), "fd00::185/128 nodad".parse().unwrap()],
            before: vec!["10.0.0.7".parse().unwrap()],
        }
    }

    #[test]
    fn a_record_survives_and_no_part_of_one_is_taken() {
        for setup in [setup(), RealServerSetup { link: None, ..setup() }] {
            let text = setup.to_string();
            assert_eq!(text.parse::<RealServerSetup>().unwrap(), setup);
            for end in 0..text.len() {
                assert!(text[..end].parse::<RealServerSetup>().is_err(), "{:?}", &text[..end]);
            }
        }
        let more = setup().to_string().replace("\nend\n", "\nstrange line\nend\n");
        assert!(more.parse::<RealServerSetup>().is_err());
    }
}
