//! What the kernel says of this process, under the names that every Prometheus client has for it. Read at
//! each scrape.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Linux counts processor time in hundredths of a second, whatever its own clock.
const TICKS: f64 = 100.0;

#[derive(Debug)]
pub(crate) struct Process;

/// What is in /proc; what cannot be read is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Found {
    cpu_seconds: Option<f64>,
    start: Option<f64>,
    virtual_bytes: Option<f64>,
    resident_bytes: Option<f64>,
    open_files: Option<f64>,
    most_files: Option<f64>,
}

impl Found {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let open = fs::read_dir("/proc/self/fd").ok().map(|files| count(files.count()));
        Self {
            open_files: open,
            ..Self::parse(
                &text("/proc/self/stat"),
                &text("/proc/stat"),
                &text("/proc/self/status"),
                &text("/proc/self/limits"),
            )
        }
    }

    fn parse(stat: &str, machine: &str, status: &str, limits: &str) -> Self {
        // A program's name may hold blanks and brackets.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The numbers of proc(5) begin with 1, and the first two are before the bracket.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let line = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<f64>().ok()
        };
        let boot = line(machine, "btime ");
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
            start: boot.zip(field(22)).map(|(boot, start)| boot + start / TICKS),
            virtual_bytes: field(23),
            resident_bytes: line(status, "VmRSS:").map(|kilobytes| kilobytes * 1024.0),
            open_files: None,
            most_files: line(limits, "Max open files"),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let found = Found::read();
        if let Some(seconds) = found.cpu_seconds {
            let counter = ConstCounter::new(seconds);
            let help = "Processor time of this process";
            let name = "process_cpu_seconds";
            let encoder = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(encoder)?;
        }
        for (name, help, value) in [
            ("process_start_time_seconds", "When it was started, since 1970", found.start),
            ("process_virtual_memory_bytes", "Its address space", found.virtual_bytes),
            ("process_resident_memory_bytes", "Its memory", found.resident_bytes),
            ("process_open_fds", "Descriptors that it has open", found.open_files),
            ("process_max_fds", "The most that it may have open", found.most_files),
        ] {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "no process has 2^53 descriptors")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 500 8192 3 18446744073709551615";
        let found = Found::parse(
            stat,
            "cpu 1 2\nbtime 1000\n",
            "Name:\tx\nVmRSS:\t  12 kB\n",
            "Limit Soft Hard\nMax open files            1024                 524288               files\n",
        );
        let expected = Found {
            cpu_seconds: Some(2.0),
            start: Some(1005.0),
            virtual_bytes: Some(8192.0),
            resident_bytes: Some(12288.0),
            open_files: None,
            most_files: Some(1024.0),
        };
        assert_eq!(found, expected);
        assert_eq!(Found::parse("", "", "", ""), Found::default());
    }

    #[test]
    fn this_process() {
        let found = Found::read();
        assert!(
            found.resident_bytes.unwrap() > 1e5 && found.open_files.unwrap() >= 1.0,
            "{found:?}"
        );
        assert!(found.start.unwrap() > 1.5e9 && found.most_files.is_some(), "{found:?}");
    }
}
