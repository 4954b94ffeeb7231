//! Netlink attributes: `{u16 length, u16 number, value, padding to 4}`, read and written.

use crate::{
    InvalidValue,
    error::{ParseError, Problem, Space},
    number::{daemon, destination, info, message, service, statistics},
};

/// Size of an attribute's header, and what every attribute is padded to.
const HEADER: usize = 4;
/// `NLA_F_NESTED`: ipvsadm's libnl sets it on nests. The kernel takes nests with and without it,
/// and does not set it.
const NESTED: u16 = 1 << 15;
/// `NLA_TYPE_MASK`: the number without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const NUMBER_MASK: u16 = 0x3fff;
/// How many bytes of unknown attributes are kept per level.
const LIMIT: usize = 16 * 1024;
const LIMIT_RULE: &str = "must not make the unknown attributes of its level exceed 16 KiB";

/// A destination for attributes, which counts or writes them. The same list of calls does both, so
/// a message's length field and its bytes always agree.
pub(crate) trait Sink: Sized {
    /// Adds one attribute whose number may carry flags.
    fn put(&mut self, number: u16, value: &[u8]);

    /// Adds attributes that are already encoded and padded.
    fn put_encoded(&mut self, attributes: &[u8]);

    /// Adds a nest holding what `contents` adds.
    fn nest(&mut self, number: u16, contents: impl FnOnce(&mut Self));

    #[inline]
    fn put_u8(&mut self, number: u16, value: u8) {
        self.put(number, &[value]);
    }

    #[inline]
    fn put_u16(&mut self, number: u16, value: u16) {
        self.put(number, &value.to_ne_bytes());
    }

    #[inline]
    fn put_u16_be(&mut self, number: u16, value: u16) {
        self.put(number, &value.to_be_bytes());
    }

    #[inline]
    fn put_u32(&mut self, number: u16, value: u32) {
        self.put(number, &value.to_ne_bytes());
    }

    #[inline]
    fn put_u64(&mut self, number: u16, value: u64) {
        self.put(number, &value.to_ne_bytes());
    }
}

/// Counts bytes.
#[derive(Default)]
pub(crate) struct Length(pub(crate) usize);

impl Sink for Length {
    #[inline]
    fn put(&mut self, _number: u16, value: &[u8]) {
        self.0 += HEADER + padded(value.len());
    }

    #[inline]
    fn put_encoded(&mut self, attributes: &[u8]) {
        self.0 += attributes.len();
    }

    #[inline]
    fn nest(&mut self, _number: u16, contents: impl FnOnce(&mut Self)) {
        self.0 += HEADER;
        contents(self);
    }
}

/// Writes bytes. Panics if the buffer is too short, as `Request::emit` documents.
pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
    nest_flag: u16,
}

impl<'a> Writer<'a> {
    /// A writer of what user space sends.
    pub(crate) fn request(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0, nest_flag: NESTED }
    }

    /// A writer of what the kernel sends: its nests carry no flag.
    pub(crate) fn reply(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0, nest_flag: 0 }
    }

    #[inline]
    fn header(length: usize, number: u16) -> [u8; HEADER] {
        // An attribute's length is 16 bits wide. Values here have at most 16 bytes, except nests:
        // the limit on unknown attributes keeps them below 64 KiB.
        let [l0, l1] = (length as u16).to_ne_bytes();
        let [n0, n1] = number.to_ne_bytes();
        [l0, l1, n0, n1]
    }
}

impl Sink for Writer<'_> {
    #[inline]
    fn put(&mut self, number: u16, value: &[u8]) {
        let start = self.at;
        self.at += HEADER + padded(value.len());
        let (header, rest) = self.buffer[start..self.at].split_at_mut(HEADER);
        header.copy_from_slice(&Self::header(HEADER + value.len(), number));
        let (place, padding) = rest.split_at_mut(value.len());
        place.copy_from_slice(value);
        padding.fill(0);
    }

    #[inline]
    fn put_encoded(&mut self, attributes: &[u8]) {
        let start = self.at;
        self.at += attributes.len();
        self.buffer[start..self.at].copy_from_slice(attributes);
    }

    #[inline]
    fn nest(&mut self, number: u16, contents: impl FnOnce(&mut Self)) {
        let start = self.at;
        self.at += HEADER;
        contents(self);
        let header = Self::header(self.at - start, number | self.nest_flag);
        self.buffer[start..start + HEADER].copy_from_slice(&header);
    }
}

/// Walks the attributes of one message or nest. It never panics and never allocates. It always
/// ends, since each step takes at least the four bytes of a header.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// Offset of `bytes` in the message's payload, for errors.
    offset: usize,
    space: Space,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], offset: usize, space: Space) -> Self {
        Self { bytes, offset, space }
    }

    /// The error for a missing attribute.
    pub(crate) fn missing(&self, number: u16) -> ParseError {
        ParseError::new(self.space, Some(number), self.offset, Problem::Missing)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Attribute<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let fail = |reader: &mut Self, number, problem| {
            let error = ParseError::new(reader.space, number, reader.offset, problem);
            reader.bytes = &[];
            Some(Err(error))
        };
        let have = self.bytes.len();
        let Some((&[l0, l1, n0, n1], _)) = self.bytes.split_first_chunk::<HEADER>() else {
            return fail(self, None, Problem::Truncated { need: HEADER, have });
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let raw_number = u16::from_ne_bytes([n0, n1]);
        let number = raw_number & NUMBER_MASK;
        if length < HEADER || length > have {
            return fail(self, Some(number), Problem::Truncated { need: length.max(HEADER), have });
        }
        let attribute = Attribute {
            number,
            raw_number,
            value: &self.bytes[HEADER..length],
            offset: self.offset,
            space: self.space,
        };
        // The last attribute's padding may be left out.
        let step = padded(length).min(have);
        self.bytes = &self.bytes[step..];
        self.offset += step;
        Some(Ok(attribute))
    }
}

/// One attribute, as read.
#[derive(Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub(crate) number: u16,
    raw_number: u16,
    pub(crate) value: &'a [u8],
    offset: usize,
    space: Space,
}

impl<'a> Attribute<'a> {
    pub(crate) fn error(&self, problem: Problem) -> ParseError {
        ParseError::new(self.space, Some(self.number), self.offset, problem)
    }

    pub(crate) fn nested(&self, space: Space) -> Reader<'a> {
        Reader::new(self.value, self.offset + HEADER, space)
    }

    /// The first `N` bytes. As in the kernel, a longer attribute is read from its first bytes, and
    /// a shorter one is an error.
    #[inline]
    pub(crate) fn array<const N: usize>(&self) -> Result<[u8; N], ParseError> {
        match self.value.first_chunk::<N>() {
            Some(bytes) => Ok(*bytes),
            None => Err(self.error(Problem::TooShort { need: N, have: self.value.len() })),
        }
    }

    #[inline]
    pub(crate) fn u8(&self) -> Result<u8, ParseError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&self) -> Result<u16, ParseError> {
        self.array().map(u16::from_ne_bytes)
    }

    #[inline]
    pub(crate) fn u16_be(&self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&self) -> Result<u32, ParseError> {
        self.array().map(u32::from_ne_bytes)
    }

    #[inline]
    pub(crate) fn u64(&self) -> Result<u64, ParseError> {
        self.array().map(u64::from_ne_bytes)
    }

    /// A NUL-terminated string: everything before the first NUL.
    pub(crate) fn string(&self) -> Result<&'a str, ParseError> {
        std::str::from_utf8(self.bytes_to_nul())
            .map_err(|_| self.error(Problem::Value("must be UTF-8")))
    }

    /// Everything before the first NUL.
    pub(crate) fn bytes_to_nul(&self) -> &'a [u8] {
        let end = self.value.iter().position(|&byte| byte == 0).unwrap_or(self.value.len());
        &self.value[..end]
    }
}

/// Where in a reply an unknown attribute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Level {
    /// Beside the `SERVICE` nest.
    ServiceMessage,
    /// Beside the `DEST` nest.
    DestinationMessage,
    /// Beside the `DAEMON` nest.
    DaemonMessage,
    /// Beside the timeouts, in the reply to `GET_CONFIG`.
    Timeouts,
    /// Beside version and size, in the reply to `GET_INFO`.
    Info,
    /// In the `SERVICE` nest.
    Service,
    /// In the `DEST` nest.
    Destination,
    /// In the `DAEMON` nest.
    Daemon,
    /// In the nest of 32-bit statistics.
    Statistics,
    /// In the nest of 64-bit statistics.
    Statistics64,
}

impl Level {
    pub(crate) const ALL: [Self; 10] = [
        Self::ServiceMessage,
        Self::DestinationMessage,
        Self::DaemonMessage,
        Self::Timeouts,
        Self::Info,
        Self::Service,
        Self::Destination,
        Self::Daemon,
        Self::Statistics,
        Self::Statistics64,
    ];

    /// Whether this crate reads attributes of that number at the level.
    fn knows(self, number: u16) -> bool {
        let name = match self {
            Self::ServiceMessage => return number == message::SERVICE,
            Self::DestinationMessage => return number == message::DEST,
            Self::DaemonMessage => return number == message::DAEMON,
            Self::Timeouts => {
                return matches!(
                    number,
                    message::TIMEOUT_TCP | message::TIMEOUT_TCP_FIN | message::TIMEOUT_UDP
                );
            }
            Self::Info => info::name(number),
            Self::Service => service::name(number),
            Self::Destination => destination::name(number),
            Self::Daemon => daemon::name(number),
            Self::Statistics | Self::Statistics64 => statistics::name(number),
        };
        name.is_some()
    }
}

/// Attributes of a reply that this crate does not know, kept byte for byte, each with its level.
/// So what a newer kernel adds is neither an error nor lost.
///
/// Usually there are none, and the value takes one word and no allocation.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct UnknownAttributes(Option<Box<[Vec<u8>; Level::ALL.len()]>>);

impl UnknownAttributes {
    /// None.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        // The levels are allocated with the first attribute, and nothing is ever removed.
        self.0.is_none()
    }

    /// The attributes of one level, in their original order: number and value. The number includes
    /// the flags `NLA_F_NESTED` (0x8000) and `NLA_F_NET_BYTEORDER` (0x4000) if they were set.
    pub fn iter(&self, level: Level) -> impl Iterator<Item = (u16, &[u8])> {
        Reader::new(self.encoded(level), 0, Space::Message)
            .flatten()
            .map(|attribute| (attribute.raw_number, attribute.value))
    }

    /// Adds an attribute, as a newer kernel would.
    ///
    /// Only the levels that a message has are written: an entry for a destination has no
    /// [`Level::Service`].
    ///
    /// # Errors
    /// If this crate knows the number at that level: the attribute would not be unknown when the
    /// message is read back. If the attributes of the level would take more than 16 KiB in all: a
    /// nest cannot hold more than 64 KiB.
    pub fn push(&mut self, level: Level, number: u16, value: &[u8]) -> Result<(), InvalidValue> {
        if level.knows(number & NUMBER_MASK) {
            return Err(InvalidValue::new(
                "unknown attribute",
                number & NUMBER_MASK,
                "must not have a number that is known at its level",
            ));
        }
        if self.add(level, number, value) {
            Ok(())
        } else {
            Err(InvalidValue::new("unknown attribute", number & NUMBER_MASK, LIMIT_RULE))
        }
    }

    /// Adds an attribute if it fits within the limit. Returns whether it did.
    fn add(&mut self, level: Level, number: u16, value: &[u8]) -> bool {
        let length = HEADER + value.len();
        if self.encoded(level).len() + padded(length) > LIMIT {
            return false;
        }
        let levels = self.0.get_or_insert_default();
        let bytes = &mut levels[level as usize];
        // At most `LIMIT`, so it fits.
        bytes.extend_from_slice(&(length as u16).to_ne_bytes());
        bytes.extend_from_slice(&number.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(padded(bytes.len()), 0);
        true
    }

    pub(crate) fn keep(
        &mut self,
        level: Level,
        attribute: &Attribute<'_>,
    ) -> Result<(), ParseError> {
        if self.add(level, attribute.raw_number, attribute.value) {
            Ok(())
        } else {
            Err(attribute.error(Problem::Value(LIMIT_RULE)))
        }
    }

    pub(crate) fn encoded(&self, level: Level) -> &[u8] {
        self.0.as_ref().map_or(&[], |levels| &levels[level as usize])
    }
}

impl std::fmt::Debug for UnknownAttributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(Level::ALL.into_iter().flat_map(|level| {
                self.iter(level).map(move |(number, value)| ((level, number), value))
            }))
            .finish()
    }
}

const fn padded(length: usize) -> usize {
    length.next_multiple_of(HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_are_no_unknown_attributes() {
        let mut unknown = UnknownAttributes::new();
        for (level, number) in [
            (Level::ServiceMessage, 1),
            (Level::DestinationMessage, 2 | NESTED),
            (Level::DaemonMessage, 3),
            (Level::Timeouts, 6),
            (Level::Info, 2),
            (Level::Service, 12),
            (Level::Destination, 15 | NESTED),
            (Level::Daemon, 8),
            (Level::Statistics, 11),
            (Level::Statistics64, 1),
        ] {
            let error = unknown.push(level, number, &[]).unwrap_err();
            assert_eq!(error.rule(), "must not have a number that is known at its level");
            assert!(unknown.is_empty());
        }
        unknown.push(Level::Service, 13, &[1]).unwrap();
        unknown.push(Level::Daemon, 9, &[]).unwrap();
        // Numbers that mean something elsewhere.
        unknown.push(Level::ServiceMessage, 2, &[]).unwrap();
        unknown.push(Level::Info, 3, &[]).unwrap();
        assert!(!unknown.is_empty());
        assert_eq!(
            format!("{unknown:?}"),
            "{(ServiceMessage, 2): [], (Info, 3): [], (Service, 13): [1], (Daemon, 9): []}"
        );
    }

    #[test]
    fn unknown_attributes_have_a_limit() {
        let mut unknown = UnknownAttributes::new();
        unknown.push(Level::Service, 13, &[0; LIMIT - 8]).unwrap();
        unknown.push(Level::Service, 13, &[]).unwrap();
        assert_eq!(unknown.push(Level::Service, 13, &[]).unwrap_err().rule(), LIMIT_RULE);
        unknown.push(Level::ServiceMessage, 13, &[]).unwrap();
    }
}
