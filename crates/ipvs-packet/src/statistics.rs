//! Counters and rates of a service or destination.

use crate::{
    attribute::{Attribute, Level, Sink, UnknownAttributes},
    error::{ParseError, Space},
    number::statistics::{
        CONNS, CPS, INBPS, INBYTES, INPKTS, INPPS, OUTBPS, OUTBYTES, OUTPKTS, OUTPPS, PAD,
    },
};

/// In the kernel's order, which is also the order of the numbers, without a gap.
const NUMBERS: [u16; 10] =
    [CONNS, INPKTS, OUTPKTS, INBYTES, OUTBYTES, CPS, INPPS, OUTPPS, INBPS, OUTBPS];

/// Counters since the service or destination was made or zeroed, and rates.
///
/// 64 bits wide (`IPVS_SVC_ATTR_STATS64`, `IPVS_DEST_ATTR_STATS64`, since Linux 4.1); from an older
/// kernel the 32-bit values (`IPVS_SVC_ATTR_STATS`, `IPVS_DEST_ATTR_STATS`) widened.
///
/// The kernel's estimator updates them every two seconds, so right after traffic they are still
/// old. With `net.ipv4.vs.run_estimation=0` they are not updated at all. `ipvsadm -L --stats`,
/// `--rate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Statistics {
    /// Connections scheduled. `IPVS_STATS_ATTR_CONNS`.
    pub connections: u64,
    /// Packets from clients. `IPVS_STATS_ATTR_INPKTS`.
    pub incoming_packets: u64,
    /// Packets to clients; stays 0 in direct routing and tunnelling, where replies do not pass the
    /// director. `IPVS_STATS_ATTR_OUTPKTS`.
    pub outgoing_packets: u64,
    /// Bytes from clients. `IPVS_STATS_ATTR_INBYTES`.
    pub incoming_bytes: u64,
    /// Bytes to clients. `IPVS_STATS_ATTR_OUTBYTES`.
    pub outgoing_bytes: u64,
    /// Connections per second. `IPVS_STATS_ATTR_CPS`.
    pub connection_rate: u64,
    /// Packets per second from clients. `IPVS_STATS_ATTR_INPPS`.
    pub incoming_packet_rate: u64,
    /// Packets per second to clients. `IPVS_STATS_ATTR_OUTPPS`.
    pub outgoing_packet_rate: u64,
    /// Bytes per second from clients. `IPVS_STATS_ATTR_INBPS`.
    pub incoming_byte_rate: u64,
    /// Bytes per second to clients. `IPVS_STATS_ATTR_OUTBPS`.
    pub outgoing_byte_rate: u64,
}

impl Statistics {
    /// From the counters and from the rates, each in the kernel's order: connections, packets from
    /// and to clients, bytes from and to clients.
    pub const fn new(counters: [u64; 5], rates: [u64; 5]) -> Self {
        Self {
            connections: counters[0],
            incoming_packets: counters[1],
            outgoing_packets: counters[2],
            incoming_bytes: counters[3],
            outgoing_bytes: counters[4],
            connection_rate: rates[0],
            incoming_packet_rate: rates[1],
            outgoing_packet_rate: rates[2],
            incoming_byte_rate: rates[3],
            outgoing_byte_rate: rates[4],
        }
    }

    /// Reads a `STATS` (`wide` false) or `STATS64` nest.
    #[inline]
    pub(crate) fn parse(
        nest: &Attribute<'_>,
        wide: bool,
        unknown: &mut UnknownAttributes,
    ) -> Result<Self, ParseError> {
        let plain = if wide { plain::<true> } else { plain::<false> };
        if let Some(values) = plain(nest.value) {
            return Ok(Self::of_values(values));
        }
        let level = if wide { Level::Statistics64 } else { Level::Statistics };
        let mut values = [0; NUMBERS.len()];
        for attribute in nest.nested(Space::Statistics) {
            let attribute = attribute?;
            match attribute.number {
                number @ CONNS..=OUTBPS => {
                    values[usize::from(number - CONNS)] = match width(number, wide) {
                        8 => attribute.u64()?,
                        _ => attribute.u32()?.into(),
                    };
                }
                PAD => {}
                _ => unknown.keep(level, &attribute)?,
            }
        }
        Ok(Self::of_values(values))
    }

    /// Writes both nests, as the kernel does: first the low 32 bits, then all 64.
    #[inline]
    pub(crate) fn put(
        &self,
        narrow_number: u16,
        wide_number: u16,
        unknown: &UnknownAttributes,
        out: &mut impl Sink,
    ) {
        out.nest(narrow_number, |out| {
            for (number, value) in self.numbered() {
                match number {
                    INBYTES | OUTBYTES => out.put_u64(number, value),
                    _ => out.put_u32(number, value as u32),
                }
            }
            out.put_encoded(unknown.encoded(Level::Statistics));
        });
        out.nest(wide_number, |out| {
            for (number, value) in self.numbered() {
                out.put_u64(number, value);
            }
            out.put_encoded(unknown.encoded(Level::Statistics64));
        });
    }

    /// Numbers and values in the kernel's order.
    fn numbered(&self) -> impl Iterator<Item = (u16, u64)> {
        let values = [
            self.connections,
            self.incoming_packets,
            self.outgoing_packets,
            self.incoming_bytes,
            self.outgoing_bytes,
            self.connection_rate,
            self.incoming_packet_rate,
            self.outgoing_packet_rate,
            self.incoming_byte_rate,
            self.outgoing_byte_rate,
        ];
        NUMBERS.into_iter().zip(values)
    }

    /// From all values in the kernel's order.
    fn of_values([a, b, c, d, e, f, g, h, i, j]: [u64; NUMBERS.len()]) -> Self {
        Self::new([a, b, c, d, e], [f, g, h, i, j])
    }
}

/// The length of a number's value.
const fn width(number: u16, wide: bool) -> u16 {
    // In the 32-bit nest, only the byte counters are 64 bits wide.
    if wide || matches!(number, INBYTES | OUTBYTES) { 8 } else { 4 }
}

/// Reads a nest that holds each number once, in order and without padding, as kernels for PCs send
/// it: half the time of reading a destination would otherwise go into these.
#[inline]
fn plain<const WIDE: bool>(nest: &[u8]) -> Option<[u64; NUMBERS.len()]> {
    let mut values = [0; NUMBERS.len()];
    let mut rest = nest;
    for (value, number) in values.iter_mut().zip(NUMBERS) {
        let width = width(number, WIDE);
        let (header, after) = rest.split_first_chunk::<4>()?;
        let [length, number] = [4 + width, number].map(u16::to_ne_bytes);
        if *header != [length[0], length[1], number[0], number[1]] {
            return None;
        }
        rest = if width == 8 {
            let (bytes, after) = after.split_first_chunk()?;
            *value = u64::from_ne_bytes(*bytes);
            after
        } else {
            let (bytes, after) = after.split_first_chunk()?;
            *value = u32::from_ne_bytes(*bytes).into();
            after
        };
    }
    rest.is_empty().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::{Reader, Writer};

    /// Reads a `STATS` or `STATS64` nest, and whether it was read at once.
    fn read(nest: &[u8], wide: bool) -> (Statistics, bool) {
        let attribute = Reader::new(nest, 0, Space::Message).next().unwrap().unwrap();
        let mut unknown = UnknownAttributes::new();
        let statistics = Statistics::parse(&attribute, wide, &mut unknown).unwrap();
        assert!(unknown.is_empty());
        let at_once = if wide { plain::<true> } else { plain::<false> }(attribute.value);
        (statistics, at_once.is_some())
    }

    #[test]
    fn both_ways_read_the_same() {
        let statistics = Statistics::of_values([1, 22, 333, 1 << 40, 1 << 41, 6, 7, 8, 9, 10]);
        let mut nests = [0; 4 + 88 + 4 + 120];
        let mut writer = Writer::request(&mut nests);
        statistics.put(1, 2, &UnknownAttributes::new(), &mut writer);
        for (nest, wide) in [(&nests[..92], false), (&nests[92..], true)] {
            assert_eq!(read(nest, wide), (statistics, true));
            // With an attribute that only pads, in front and behind.
            let length = u16::try_from(nest.len() + 4).unwrap().to_ne_bytes();
            let number = [nest[2], nest[3]];
            let pad = [4u16.to_ne_bytes(), PAD.to_ne_bytes()].concat();
            let front = [&length[..], &number, &pad, &nest[4..]].concat();
            let behind = [&length[..], &number, &nest[4..], &pad].concat();
            assert_eq!(read(&front, wide), (statistics, false));
            assert_eq!(read(&behind, wide), (statistics, false));
        }
    }
}
