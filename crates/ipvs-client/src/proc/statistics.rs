//! The counters of all services together, which the kernel reports in /proc only.

use std::{collections::BTreeMap, io::Read};

use ipvs_packet::Statistics;

use super::{
    file::{open, refused},
    namespace::Namespace,
};
use crate::Error;

const TOTALS: &str = "/proc/thread-self/net/ip_vs_stats";
const CPU_TOTALS: &str = "/proc/thread-self/net/ip_vs_stats_percpu";
const READING_TOTALS: &str = "reading IPVS totals (/proc/net/ip_vs_stats)";
const READING_CPU_TOTALS: &str = "reading IPVS totals by CPU (/proc/net/ip_vs_stats_percpu)";

/// The counters of all services together, by the CPU that handled the packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuTotals {
    /// Live counters by the number of the CPU, 0 and up. The kernel has no rates by CPU: they are 0.
    pub cpus: BTreeMap<u32, Statistics>,
    /// All CPUs together, as [`Client::totals`](crate::Client::totals) returns it: up to two seconds
    /// old.
    pub total: Statistics,
}

impl CpuTotals {
    /// The sum of all CPUs' live counters; rates are 0.
    ///
    /// They count from when the namespace was made or ip_vs was loaded: unlike the totals, they are
    /// not zeroed.
    pub fn live(&self) -> Statistics {
        self.cpus.values().fold(Statistics::default(), |mut sum, cpu| {
            sum.connections = sum.connections.wrapping_add(cpu.connections);
            sum.incoming_packets = sum.incoming_packets.wrapping_add(cpu.incoming_packets);
            sum.outgoing_packets = sum.outgoing_packets.wrapping_add(cpu.outgoing_packets);
            sum.incoming_bytes = sum.incoming_bytes.wrapping_add(cpu.incoming_bytes);
            sum.outgoing_bytes = sum.outgoing_bytes.wrapping_add(cpu.outgoing_bytes);
            sum
        })
    }

    pub(crate) fn read(namespace: &Namespace) -> Result<Self, Error> {
        let text = read(namespace, READING_CPU_TOTALS, CPU_TOTALS)?;
        Self::parse(&text).map_err(|line| malformed(READING_CPU_TOTALS, &text, line))
    }

    /// `Err` is the number of the line that cannot be read.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut lines = Lines::new(text);
        lines.skip_header()?;
        let mut totals = Self::default();
        loop {
            let number = lines.number + 1;
            let line = lines.next().ok_or(number)?;
            let (name, counters) = line.trim_start().split_once(' ').ok_or(number)?;
            let counters = numbers(counters).ok_or(number)?;
            if name == "~" {
                let rates = lines.rates()?;
                totals.total = Statistics::new(counters, rates);
                return Ok(totals);
            }
            let cpu = hexadecimal(name.as_bytes()).and_then(|cpu| u32::try_from(cpu).ok());
            totals.cpus.insert(cpu.ok_or(number)?, Statistics::new(counters, [0; 5]));
        }
    }
}

/// Reads /proc/net/ip_vs_stats.
pub(crate) fn read_totals(namespace: &Namespace) -> Result<Statistics, Error> {
    let text = read(namespace, READING_TOTALS, TOTALS)?;
    parse_totals(&text).map_err(|line| malformed(READING_TOTALS, &text, line))
}

fn parse_totals(text: &str) -> Result<Statistics, usize> {
    let mut lines = Lines::new(text);
    lines.skip_header()?;
    let counters = lines.next().and_then(numbers).ok_or(lines.number)?;
    let rates = lines.rates()?;
    Ok(Statistics::new(counters, rates))
}

fn read(namespace: &Namespace, operation: &str, path: &str) -> Result<String, Error> {
    namespace.run(operation, || {
        let mut text = Vec::new();
        open(operation, path)?.read_to_end(&mut text).map_err(|error| refused(operation, error))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    })
}

fn malformed(operation: &str, text: &str, number: usize) -> Error {
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let start: String = line.chars().take(200).collect();
    Error::malformed(operation, &format!("line {number} cannot be read: \"{start}\""))
}

/// Lines with the number of the one that was read last; the first is 1.
struct Lines<'a> {
    lines: std::str::Lines<'a>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { lines: text.lines(), number: 0 }
    }

    /// The two lines that name the columns.
    fn skip_header(&mut self) -> Result<(), usize> {
        for words in ["Total Incoming Outgoing", "Conns Packets Packets Bytes Bytes"] {
            let line = self.next().ok_or(self.number)?;
            // The second line may have a column in front.
            let columns: Vec<_> = line.split_ascii_whitespace().collect();
            if !columns.join(" ").contains(words) {
                return Err(self.number);
            }
        }
        Ok(())
    }

    /// What is behind the counters: an empty line, one that names the columns, and the rates.
    fn rates(&mut self) -> Result<[u64; 5], usize> {
        for start in ["", "Conns/s"] {
            let line = self.next().ok_or(self.number)?;
            if line.split_ascii_whitespace().next().unwrap_or_default() != start {
                return Err(self.number);
            }
        }
        self.next().and_then(numbers).ok_or(self.number)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.number += 1;
        self.lines.next()
    }
}

/// Connections, packets from and to clients, bytes from and to clients.
fn numbers(line: &str) -> Option<[u64; 5]> {
    let columns: Option<Vec<u64>> =
        line.split_ascii_whitespace().map(|column| hexadecimal(column.as_bytes())).collect();
    columns?.try_into().ok()
}

/// A number as the kernel's `%X` writes it, of 64 bits at most.
fn hexadecimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Linux 6.1.
    const STATS: &str = "   \
   Total Incoming Outgoing         Incoming         Outgoing
   Conns  Packets  Packets            Bytes            Bytes
       8       44       3C             1A70             2E18

 Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
       4       1F       1E              C38             1703
";
    const PER_CPU: &str = "       \
       Total Incoming Outgoing         Incoming         Outgoing
CPU    Conns  Packets  Packets            Bytes            Bytes
  0        8       44       3C             1A70             2E18
  A        1        2        3                4 FFFFFFFFFFFFFFFF
  ~        0        0        0                0                0

     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
           1        2        3                4                5
";

    #[test]
    fn totals() {
        let expected =
            Statistics::new([8, 0x44, 0x3C, 0x1A70, 0x2E18], [4, 0x1F, 0x1E, 0xC38, 0x1703]);
        assert_eq!(parse_totals(STATS), Ok(expected));
    }

    #[test]
    fn by_cpu() {
        let totals = CpuTotals::parse(PER_CPU).unwrap();
        assert_eq!(totals.cpus.keys().copied().collect::<Vec<_>>(), [0, 10]);
        assert_eq!(totals.cpus[&10].outgoing_bytes, u64::MAX);
        assert_eq!(totals.total.connections, 0);
        assert_eq!(totals.total.outgoing_byte_rate, 5);
        assert_eq!(totals.live().connections, 9);
        assert_eq!(totals.live().outgoing_bytes, 0x2E17);
    }

    #[test]
    fn malformed_lines_are_named() {
        let spoilt = |text: &str, at: usize| {
            let mut lines: Vec<_> = text.lines().collect();
            lines[at] = "no such line";
            lines.join("\n")
        };
        for at in 0..STATS.lines().count() {
            assert_eq!(parse_totals(&spoilt(STATS, at)), Err(at + 1));
        }
        for at in 0..PER_CPU.lines().count() {
            assert_eq!(CpuTotals::parse(&spoilt(PER_CPU, at)), Err(at + 1));
        }
        let error = malformed(READING_TOTALS, STATS, 3);
        assert!(error.to_string().contains("line 3 cannot be read: \"       8 "), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "[0-9A-F ~\n]{0,300}", cut in 0..STATS.len()) {
            let _ = parse_totals(&text);
            let _ = CpuTotals::parse(&text);
            // A number that is cut off is another number.
            prop_assert!(cut > STATS.len() - 8 || parse_totals(&STATS[..cut]).is_err());
            let header = PER_CPU.lines().take(2).collect::<Vec<_>>().join("\n");
            if let Err(line) = CpuTotals::parse(&format!("{header}\n{text}")) {
                let _ = malformed(READING_CPU_TOTALS, &text, line);
            }
        }
    }
}
