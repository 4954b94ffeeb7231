//! The readable forms of the `serde` feature; the crate page describes them.

use std::{
    fmt,
    net::IpAddr,
    num::{NonZeroU8, NonZeroU16},
    str::FromStr,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use crate::{
    DaemonRole, Destination, DestinationKey, EngineName, ForwardMethod, InterfaceName,
    InvalidValue, Ipv6Prefix, Level, Netmask, Protocol, SchedulerName, Service, ServiceFlags,
    ServiceKey, SyncDaemon, SyncId, Thresholds, Tunnel, TunnelFlags, TunnelType, UnknownAttributes,
    Version, Weight,
};

/// Types whose `Display` and `FromStr` are their readable form.
macro_rules! text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::from_str(&text).map_err(de::Error::custom)
            }
        }
    )*};
}

text!(ServiceKey, DestinationKey, SchedulerName, EngineName, InterfaceName, Version);

/// Types whose readable form is that of another type. Reading may refuse a value.
macro_rules! through {
    ($($type:ty => $form:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                <$form>::from(self).serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::try_from(<$form>::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )*};
}

through!(
    Service => ServiceForm,
    Destination => DestinationForm,
    SyncDaemon => SyncDaemonForm,
    UnknownAttributes => Vec<UnknownForm>,
    Netmask => WordOrNumber,
    ServiceFlags => Vec<WordOrNumber>,
    TunnelFlags => Vec<WordOrNumber>,
    Protocol => WordOrNumber,
    ForwardMethod => WordOrNumber,
    TunnelType => WordOrNumber,
    DaemonRole => WordOrNumber
);

/// An element of an open set: its word, or its number if it has none.
enum WordOrNumber {
    Word(String),
    Number(u64),
}

impl WordOrNumber {
    fn word(word: &str) -> Self {
        Self::Word(word.to_owned())
    }

    /// The number, according to a table of words.
    fn resolve<N: Copy + TryFrom<u64>>(
        self,
        what: &'static str,
        words: &[(&str, N)],
        rule: &'static str,
    ) -> Result<N, InvalidValue> {
        let refuse = || InvalidValue::new(what, &self, rule);
        match &self {
            Self::Word(word) => {
                let known = words.iter().find(|(name, _)| name == word);
                known.map(|&(_, number)| number).ok_or_else(refuse)
            }
            Self::Number(number) => N::try_from(*number).map_err(|_| refuse()),
        }
    }
}

impl fmt::Display for WordOrNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl Serialize for WordOrNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Word(word) => serializer.serialize_str(word),
            Self::Number(number) => serializer.serialize_u64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for WordOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = WordOrNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a number")
            }

            fn visit_str<E>(self, word: &str) -> Result<WordOrNumber, E> {
                Ok(WordOrNumber::word(word))
            }

            fn visit_u64<E>(self, number: u64) -> Result<WordOrNumber, E> {
                Ok(WordOrNumber::Number(number))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Open sets: each constant by its word.
macro_rules! words {
    ($($type:ident, $what:literal;)*) => {$(
        impl From<&$type> for WordOrNumber {
            fn from(value: &$type) -> Self {
                $type::WORDS
                    .iter()
                    .find(|(_, number)| *number == value.0)
                    .map_or(Self::Number(value.0.into()), |(word, _)| Self::word(word))
            }
        }

        impl TryFrom<WordOrNumber> for $type {
            type Error = InvalidValue;

            fn try_from(form: WordOrNumber) -> Result<Self, InvalidValue> {
                form.resolve($what, Self::WORDS, Self::RULE).map(Self)
            }
        }
    )*};
}

words! {
    Protocol, "protocol";
    ForwardMethod, "forwarding method";
    TunnelType, "tunnel type";
    DaemonRole, "sync daemon";
}

/// A list of the words of the bits that have one, then one number of those that have none.
fn flags_form(mut bits: u32, words: &[(&str, u32)]) -> Vec<WordOrNumber> {
    let mut form = Vec::new();
    for &(word, bit) in words {
        if bits & bit != 0 {
            form.push(WordOrNumber::word(word));
            bits &= !bit;
        }
    }
    if bits != 0 {
        form.push(WordOrNumber::Number(bits.into()));
    }
    form
}

fn flags_bits(
    form: Vec<WordOrNumber>,
    words: &[(&str, u32)],
    rule: &'static str,
) -> Result<u32, InvalidValue> {
    form.into_iter().try_fold(0, |bits, flag| Ok(bits | flag.resolve("flag", words, rule)?))
}

impl From<&ServiceFlags> for Vec<WordOrNumber> {
    fn from(flags: &ServiceFlags) -> Self {
        // HASHED is the kernel's and no setting.
        flags_form((*flags - ServiceFlags::HASHED).bits(), ServiceFlags::WORDS)
    }
}

impl TryFrom<Vec<WordOrNumber>> for ServiceFlags {
    type Error = InvalidValue;

    fn try_from(form: Vec<WordOrNumber>) -> Result<Self, InvalidValue> {
        flags_bits(form, Self::WORDS, Self::RULE).map(Self::from_bits_retain)
    }
}

const TUNNEL_FLAGS: &[(&str, u32)] = &[
    ("checksum", TunnelFlags::CHECKSUM.bits() as u32),
    ("remote-checksum", TunnelFlags::REMOTE_CHECKSUM.bits() as u32),
];

impl From<&TunnelFlags> for Vec<WordOrNumber> {
    fn from(flags: &TunnelFlags) -> Self {
        flags_form(flags.bits().into(), TUNNEL_FLAGS)
    }
}

impl TryFrom<Vec<WordOrNumber>> for TunnelFlags {
    type Error = InvalidValue;

    fn try_from(form: Vec<WordOrNumber>) -> Result<Self, InvalidValue> {
        let rule = "must be checksum, remote-checksum, or a number of 16 bits";
        let bits = flags_bits(form, TUNNEL_FLAGS, rule)?;
        u16::try_from(bits)
            .map(Self::from_bits_retain)
            .map_err(|_| InvalidValue::new("flag", bits, rule))
    }
}

impl From<&Netmask> for WordOrNumber {
    fn from(netmask: &Netmask) -> Self {
        match netmask {
            Netmask::Ipv4(mask) => Self::Word(mask.to_string()),
            Netmask::Ipv6(prefix) => Self::Number(prefix.get().into()),
        }
    }
}

impl TryFrom<WordOrNumber> for Netmask {
    type Error = InvalidValue;

    fn try_from(form: WordOrNumber) -> Result<Self, InvalidValue> {
        form.to_string().parse()
    }
}

/// Types that are a number within a range.
macro_rules! numbers {
    ($($type:ident as $number:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.get().serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(<$number>::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )*};
}

numbers!(Weight as u32, Ipv6Prefix as u8);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceForm {
    key: ServiceKey,
    #[serde(default = "default_scheduler")]
    scheduler: SchedulerName,
    #[serde(default, skip_serializing_if = "is_default")]
    flags: ServiceFlags,
    #[serde(default = "all_flags", skip_serializing_if = "is_all_flags")]
    flags_mask: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    timeout: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netmask: Option<WordOrNumber>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine: Option<EngineName>,
}

fn default_scheduler() -> SchedulerName {
    SchedulerName::WLC
}

fn all_flags() -> u32 {
    u32::MAX
}

fn is_all_flags(mask: &u32) -> bool {
    *mask == u32::MAX
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<&Service> for ServiceForm {
    fn from(service: &Service) -> Self {
        let netmask = service.netmask();
        let host = Netmask::host(service.key().family());
        Self {
            key: *service.key(),
            scheduler: service.scheduler,
            flags: service.flags,
            flags_mask: service.flags_mask,
            timeout: service.timeout,
            netmask: (netmask != host).then(|| WordOrNumber::from(&netmask)),
            engine: service.engine,
        }
    }
}

impl TryFrom<ServiceForm> for Service {
    type Error = InvalidValue;

    fn try_from(form: ServiceForm) -> Result<Self, InvalidValue> {
        let mut service = Self::new(form.key);
        service.scheduler = form.scheduler;
        service.flags = form.flags;
        service.flags_mask = form.flags_mask;
        service.timeout = form.timeout;
        service.engine = form.engine;
        if let Some(netmask) = form.netmask {
            let netmask = Netmask::from_text(form.key.family(), &netmask.to_string())?;
            service.set_netmask(netmask)?;
        }
        Ok(service)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DestinationForm {
    key: DestinationKey,
    #[serde(default = "default_forward")]
    forward: ForwardMethod,
    #[serde(default)]
    weight: Weight,
    #[serde(default, skip_serializing_if = "is_default")]
    thresholds: Thresholds,
    #[serde(default, skip_serializing_if = "is_default")]
    tunnel: Tunnel,
}

fn default_forward() -> ForwardMethod {
    ForwardMethod::MASQUERADE
}

impl From<&Destination> for DestinationForm {
    fn from(destination: &Destination) -> Self {
        let &Destination { key, forward, weight, thresholds, tunnel } = destination;
        Self { key, forward, weight, thresholds, tunnel }
    }
}

impl From<DestinationForm> for Destination {
    fn from(form: DestinationForm) -> Self {
        let DestinationForm { key, forward, weight, thresholds, tunnel } = form;
        Self { key, forward, weight, thresholds, tunnel }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncDaemonForm {
    role: DaemonRole,
    interface: InterfaceName,
    #[serde(default)]
    sync_id: SyncId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_length: Option<NonZeroU16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<NonZeroU16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<NonZeroU8>,
}

impl From<&SyncDaemon> for SyncDaemonForm {
    fn from(daemon: &SyncDaemon) -> Self {
        Self {
            role: daemon.role,
            interface: daemon.interface,
            sync_id: daemon.sync_id,
            max_length: daemon.max_length,
            group: daemon.group(),
            port: daemon.port,
            ttl: daemon.ttl,
        }
    }
}

impl TryFrom<SyncDaemonForm> for SyncDaemon {
    type Error = InvalidValue;

    fn try_from(form: SyncDaemonForm) -> Result<Self, InvalidValue> {
        let mut daemon = Self::new(form.role, form.interface, form.sync_id);
        daemon.max_length = form.max_length;
        daemon.set_group(form.group)?;
        daemon.port = form.port;
        daemon.ttl = form.ttl;
        Ok(daemon)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnknownForm {
    level: Level,
    number: u16,
    /// Two hexadecimal digits for each byte.
    value: String,
}

impl From<&UnknownAttributes> for Vec<UnknownForm> {
    fn from(unknown: &UnknownAttributes) -> Self {
        let level_form = |level| {
            unknown.iter(level).map(move |(number, value)| UnknownForm {
                level,
                number,
                value: value.iter().map(|byte| format!("{byte:02x}")).collect(),
            })
        };
        Level::ALL.into_iter().flat_map(level_form).collect()
    }
}

impl TryFrom<Vec<UnknownForm>> for UnknownAttributes {
    type Error = InvalidValue;

    fn try_from(form: Vec<UnknownForm>) -> Result<Self, InvalidValue> {
        let mut unknown = Self::new();
        for UnknownForm { level, number, value } in form {
            let bytes = from_hex(&value).ok_or_else(|| {
                InvalidValue::new(
                    "unknown attribute",
                    &value,
                    "must be pairs of hexadecimal digits",
                )
            })?;
            unknown.push(level, number, &bytes)?;
        }
        Ok(unknown)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let pairs = digits.as_deref()?.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}
