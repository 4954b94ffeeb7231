//! Names with C limits, held inline.

use std::{fmt, str::FromStr};

use crate::{
    InvalidValue,
    attribute::{Attribute, Sink},
    error::{ParseError, Problem},
};

/// Bytes that the kernel reserves for each of the three kinds of name, the final NUL included:
/// `IP_VS_SCHEDNAME_MAXLEN`, `IP_VS_PENAME_MAXLEN`, `IP_VS_IFNAME_MAXLEN`.
const SIZE: usize = 16;

const RULE: &str = "must be 1 to 15 bytes long, without NUL";

/// A NUL-padded C string of 1 to 15 bytes. Its bytes order as its text does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name([u8; SIZE]);

impl Name {
    const fn new(name: &str) -> Option<Self> {
        Self::from_bytes(name.as_bytes())
    }

    const fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() >= SIZE {
            return None;
        }
        let mut array = [0; SIZE];
        let mut i = 0;
        while i < bytes.len() {
            if bytes[i] == 0 {
                return None;
            }
            array[i] = bytes[i];
            i += 1;
        }
        Some(Self(array))
    }

    #[inline]
    fn len(&self) -> usize {
        // There is no NUL before the padding, so the text ends with the last byte that is not zero.
        SIZE - u128::from_be_bytes(self.0).trailing_zeros() as usize / 8
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0[..self.len()]
    }

    fn as_str(&self) -> &str {
        // Names that have this method are made of a whole `&str`.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

macro_rules! name {
    (
        $(#[$doc:meta])* $type:ident, $what:literal;
        $($(#[$const_doc:meta])* $const:ident = $text:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Name);

        impl $type {
            $(
                $(#[$const_doc])*
                pub const $const: Self = match Name::new($text) {
                    Some(name) => Self(name),
                    None => unreachable!(),
                };
            )*

            /// The names that have a constant.
            pub const ALL: &[Self] = &[$(Self::$const),*];

            /// Takes a name of 1 to 15 bytes.
            ///
            /// # Errors
            /// If the kernel could not have such a name.
            pub fn new(name: &str) -> Result<Self, InvalidValue> {
                let inner = Name::new(name).ok_or_else(|| InvalidValue::new($what, name, RULE))?;
                Ok(Self(inner))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            pub(crate) fn parse(attribute: &Attribute<'_>) -> Result<Self, ParseError> {
                Self::new(attribute.string()?)
                    .map_err(|error| attribute.error(Problem::Value(error.rule())))
            }

            #[inline]
            pub(crate) fn put(&self, number: u16, out: &mut impl Sink) {
                out.put(number, &self.0.0[..=self.0.len()]);
            }
        }

        impl FromStr for $type {
            type Err = InvalidValue;

            fn from_str(name: &str) -> Result<Self, InvalidValue> {
                Self::new(name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }
    };
}

name! {
    /// The name of a scheduler, which chooses a destination for each new connection. It is the
    /// kernel module `ip_vs_<name>`, which the kernel loads when the name is first used. Any name
    /// is allowed, since schedulers can be added. `IPVS_SVC_ATTR_SCHED_NAME`, `ipvsadm -s`.
    SchedulerName, "scheduler";
    /// Round robin.
    RR = "rr";
    /// Weighted round robin.
    WRR = "wrr";
    /// Least connections.
    LC = "lc";
    /// Weighted least connections: ipvsadm's default.
    WLC = "wlc";
    /// Locality-based least connections, by destination address.
    LBLC = "lblc";
    /// Locality-based least connections with replication.
    LBLCR = "lblcr";
    /// Destination hashing.
    DH = "dh";
    /// Source hashing. See [`ServiceFlags::SH_FALLBACK`](crate::ServiceFlags::SH_FALLBACK) and
    /// [`ServiceFlags::SH_PORT`](crate::ServiceFlags::SH_PORT).
    SH = "sh";
    /// Shortest expected delay.
    SED = "sed";
    /// Never queue.
    NQ = "nq";
    /// Weighted failover: the destination of highest weight that takes connections.
    FO = "fo";
    /// Weighted overflow: the destination of highest weight, until its active connections exceed
    /// that weight.
    OVF = "ovf";
    /// Maglev hashing. See [`ServiceFlags::MH_FALLBACK`](crate::ServiceFlags::MH_FALLBACK) and
    /// [`ServiceFlags::MH_PORT`](crate::ServiceFlags::MH_PORT).
    MH = "mh";
    /// Power of two choices, since Linux 5.18.
    TWOS = "twos";
    /// No scheduler. The kernel reports a service without a scheduler with this name.
    NONE = "none";
}

name! {
    /// The name of a persistence engine, which reads the persistence key out of the traffic: the
    /// kernel module `ip_vs_pe_<name>`. `IPVS_SVC_ATTR_PE_NAME`, `ipvsadm --pe`.
    EngineName, "persistence engine";
    /// Persistence by the Call-ID of SIP over UDP.
    SIP = "sip";
}

/// The name of a network interface, 1 to 15 bytes. `IPVS_DAEMON_ATTR_MCAST_IFN`,
/// `ipvsadm --mcast-interface`.
///
/// For the kernel names are bytes. In the text, a byte that is not UTF-8 is `\xff`, and a backslash that would
/// start such an escape is `\x5c`. So every name has one text, which parses as that name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(Name);

impl InterfaceName {
    /// Takes the text of a name of 1 to 15 bytes.
    ///
    /// # Errors
    /// If the kernel could not have such a name.
    pub fn new(name: &str) -> Result<Self, InvalidValue> {
        Self::from_bytes(&bytes_of(name)).map_err(|rule| InvalidValue::new("interface", name, rule))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn from_bytes(name: &[u8]) -> Result<Self, &'static str> {
        let inner = Name::from_bytes(name).ok_or(RULE)?;
        let strange =
            |byte: &u8| matches!(byte, b'/' | b':' | 0x0b | 0xa0) || byte.is_ascii_whitespace();
        if name == b"." || name == b".." || name.iter().any(strange) {
            return Err(
                "must not be \".\" or \"..\", and must not contain a slash, a colon or white space",
            );
        }
        Ok(Self(inner))
    }

    pub(crate) fn parse(attribute: &Attribute<'_>) -> Result<Self, ParseError> {
        Self::from_bytes(attribute.bytes_to_nul())
            .map_err(|rule| attribute.error(Problem::Value(rule)))
    }

    #[inline]
    pub(crate) fn put(&self, number: u16, out: &mut impl Sink) {
        out.put(number, &self.0.0[..=self.0.len()]);
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidValue;

    fn from_str(name: &str) -> Result<Self, InvalidValue> {
        Self::new(name)
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text_of(self.as_bytes()))
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&text_of(self.as_bytes()), f)
    }
}

impl PartialEq<str> for InterfaceName {
    fn eq(&self, other: &str) -> bool {
        text_of(self.as_bytes()) == other
    }
}

impl PartialEq<&str> for InterfaceName {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

/// The text of a name. Bytes that are not UTF-8 are escaped.
fn text_of(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        let valid = chunk.valid();
        for (at, c) in valid.char_indices() {
            match escaped(&valid.as_bytes()[at..]) {
                Some(_) => text.push_str(r"\x5c"),
                None => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!(r"\x{byte:02x}"));
        }
    }
    text
}

/// The name of a text.
fn bytes_of(text: &str) -> Vec<u8> {
    let (mut name, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let byte = escaped(rest);
        name.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &rest[4..] } else { behind };
    }
    name
}

/// The byte of an escape at the start of a text: one that is not ASCII, or the backslash.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = *text else { return None };
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let byte = digit(high)? * 16 + digit(low)?;
    (byte >= 0x80 || byte == b'\\').then_some(byte)
}

/// A word for a shell: in quotes if the shell would change it.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/@%+=".contains(c);
        match self.0 {
            text if !text.is_empty() && text.chars().all(plain) => f.write_str(text),
            text => write!(f, "'{}'", text.replace('\'', r"'\''")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_c_limits() {
        assert_eq!(SchedulerName::new("0123456789abcde").unwrap().as_str(), "0123456789abcde");
        for wrong in ["", "0123456789abcdef", "r\0r", "\0"] {
            let error = SchedulerName::new(wrong).unwrap_err();
            assert_eq!(error.rule(), RULE, "{wrong:?}");
            assert_eq!(error.to_string(), format!("scheduler {wrong:?} {RULE}"));
            assert!(EngineName::new(wrong).is_err() && InterfaceName::new(wrong).is_err());
        }
    }

    #[test]
    fn names_of_interfaces_are_the_kernels() {
        assert!(InterfaceName::new("eth0.100@x").is_ok());
        for wrong in [".", "..", "a/b", "a:b", "a b", "a\tb", r"a\xa0"] {
            assert!(InterfaceName::new(wrong).is_err(), "{wrong:?}");
        }
        for (text, bytes) in [
            ("é", "é".as_bytes()),
            (r"x\xffy", b"x\xffy"),
            (r"a\b", br"a\b"),
            (r"\x5cxff", br"\xff"),
        ] {
            let name = InterfaceName::new(text).unwrap();
            assert_eq!((name.as_bytes(), name.to_string().as_str()), (bytes, text));
            assert_eq!(InterfaceName::from_bytes(bytes).unwrap(), name);
        }
    }

    #[test]
    fn constants_are_all_different() {
        let mut names = SchedulerName::ALL.to_vec();
        names.sort();
        names.dedup();
        // ipvsadm's thirteen, twos, and none.
        assert_eq!(names.len(), 15);
        assert_eq!(SchedulerName::WLC, "wlc");
        assert_eq!(&SchedulerName::WLC, "wlc");
    }
}
