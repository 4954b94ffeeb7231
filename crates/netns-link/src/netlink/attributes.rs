//! Reading what the kernel lists, attribute by attribute. What is not known or needed is passed over, so
//! that nothing that a kernel says besides can spoil a list, and names are bytes.

use std::net::IpAddr;

use netlink_packet_core::NlasIterator;
use netlink_talk::Raw;

/// Bytes with their attributes.
pub(crate) struct Object<'a> {
    header: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Object<'a> {
    /// An object with a header of so many bytes. `None`: it is shorter than that.
    pub(crate) fn new(raw: &'a Raw, header: usize) -> Option<Self> {
        let (header, attributes) = raw.bytes.split_at_checked(header)?;
        Some(Self { header, attributes })
    }

    /// A byte of the header.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.header.get(at).copied().unwrap_or_default()
    }

    /// A number of the header.
    pub(crate) fn number(&self, at: usize) -> u32 {
        self.header.get(at..).and_then(number).unwrap_or_default()
    }

    /// Hands on each attribute with its number.
    pub(crate) fn each(&self, take: impl FnMut(u16, &'a [u8])) {
        each(self.attributes, take);
    }
}

/// Hands on each attribute of a nest with its number.
pub(crate) fn each<'a>(attributes: &'a [u8], mut take: impl FnMut(u16, &'a [u8])) {
    let mut rest = attributes;
    // By the library's rules, with values that live as long as the message.
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        let length = usize::from(attribute.length());
        if let Some(value) = rest.get(4..length) {
            take(attribute.kind(), value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// A number of 32 bits, from its first bytes.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

/// An address of either family, by its length.
pub(crate) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk::<4>().map(|bytes| (*bytes).into()),
        16 => value.first_chunk::<16>().map(|bytes| (*bytes).into()),
        _ => None,
    }
}

/// The bytes of a name, without the NUL that ends it.
pub(crate) fn name(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_end(bytes in vec(any::<u8>(), 0..200)) {
            let mut seen = 0;
            each(&bytes, |_, value| seen += 4 + value.len());
            prop_assert!(seen <= bytes.len());
        }
    }
}
