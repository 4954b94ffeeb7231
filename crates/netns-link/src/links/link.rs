use std::fmt;

use netlink_packet_route::link::LinkFlags;
use netlink_talk::{Raw, names};

use crate::{
    error::{Error, ErrorKind, Operation},
    netlink::attributes::{self, Object},
};

/// What a link is listed as.
const RTM_NEWLINK: u16 = 16;

/// A dummy link, and whether the call that returned it made it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DummyLink {
    /// The link.
    pub link: Link,
    /// Whether it was made; else it was there already.
    pub created: bool,
}

/// A link as it was when it was looked up.
///
/// Calls use its index alone, and the kernel may give the index of a deleted link to a new one. So
/// do not keep a value after its link was deleted: look it up again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Link {
    /// The number by which the kernel knows it; unique in its namespace.
    pub index: u32,
    /// The name, 1 to 15 bytes. The kernel's names are bytes: those that are not UTF-8 are written as
    /// `\xff`, and every call that takes a name reads that.
    pub name: String,
    /// The kind as `ip -d link` shows it: "dummy", "veth", "bridge"; `None` for hardware and the
    /// loopback link.
    pub kind: Option<String>,
    /// The maximum transmission unit in bytes.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`), which is not yet whether it has a carrier.
    pub up: bool,
    /// Whether ARP is on (`IFF_NOARP` is not set).
    pub arp: bool,
    /// The hardware address, six bytes for Ethernet; empty where the link has none.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub hardware_address: Vec<u8>,
}

impl Link {
    /// Reads what the kernel lists. `None`: it is not a link.
    pub(crate) fn read(operation: &Operation, raw: &Raw) -> Result<Option<Self>, Error> {
        if raw.message_type != RTM_NEWLINK {
            return Ok(None);
        }
        // `struct ifinfomsg`.
        let object = Object::new(raw, 16)
            .ok_or_else(|| Error::malformed(operation, "it is too short for a link"))?;
        let flags = LinkFlags::from_bits_retain(object.number(8));
        let mut link = Self {
            index: object.number(4),
            name: String::new(),
            kind: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            arp: !flags.contains(LinkFlags::Noarp),
            hardware_address: Vec::new(),
        };
        object.each(|number, value| match number {
            1 => link.hardware_address = value.to_vec(),
            3 => link.name = names::to_text(attributes::name(value)),
            4 => link.mtu = attributes::number(value).unwrap_or_default(),
            // `IFLA_LINKINFO`, and in it `IFLA_INFO_KIND`.
            18 => attributes::each(value, |number, value| {
                if number == 1 {
                    link.kind = Some(names::to_text(attributes::name(value)));
                }
            }),
            _ => {}
        });
        Ok(Some(link))
    }

    pub(crate) fn dummy(self, operation: &Operation) -> Result<Self, Error> {
        let text = match self.kind.as_deref() {
            Some("dummy") => return Ok(self),
            Some(kind) => format!("a link of this name is there, of the kind {kind}"),
            None => "a link of this name is there that is not a dummy link".to_owned(),
        };
        Err(Error::new(ErrorKind::NotDummy, operation, &text))
    }
}

/// The name.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
