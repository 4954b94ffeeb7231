//! The golden files: what ipvsadm sent and what kernels answered, as `tests/capture.rs` of the
//! repository wrote it on x86_64, turned into this machine's byte order.

// Each test binary uses its part.
#![allow(dead_code)]

use std::{fs, path::Path};

/// One command line and the messages that it caused.
pub(crate) struct Golden {
    /// The file, for failure messages.
    pub(crate) name: String,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The ipvsadm command lines that made the state before, without the program's name.
    pub(crate) before: Vec<String>,
    /// The ipvsadm command line, without the program's name.
    pub(crate) line: String,
    pub(crate) messages: Vec<Message>,
}

/// A netlink message of the family.
pub(crate) struct Message {
    /// Sent by ipvsadm rather than by the kernel.
    pub(crate) is_request: bool,
    /// Flags of the netlink header.
    pub(crate) flags: u16,
    pub(crate) command: u8,
    pub(crate) version: u8,
    /// What follows the generic netlink header, in this machine's byte order.
    pub(crate) payload: Vec<u8>,
}

/// Where the golden files are, seen from the crate.
pub(crate) const DIRECTORY: &str = "tests/golden";

/// Miri is some thousand times slower. These have every object and every kind of number.
const OF_MIRI: [&str; 6] = [
    "add-persistent-prefix",
    "add-gue-checksum",
    "list-daemon-both",
    "list-destinations-ipv6",
    "list-mark-ipv6",
    "list-timeouts-set",
];

/// Reads all of a directory.
pub(crate) fn golden(directory: &Path) -> Vec<Golden> {
    let mut files: Vec<_> = list(directory).iter().flat_map(|kernel| list(kernel)).collect();
    files.sort();
    if cfg!(miri) {
        files.retain(|file| {
            file.file_stem().is_some_and(|name| OF_MIRI.iter().any(|of_miri| name == *of_miri))
        });
    }
    files.iter().map(|file| read(file)).collect()
}

fn list(directory: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn read(file: &Path) -> Golden {
    let mut golden = Golden {
        name: file.display().to_string(),
        kernel: String::new(),
        before: Vec::new(),
        line: String::new(),
        messages: Vec::new(),
    };
    let text = fs::read_to_string(file).unwrap();
    let mut blocks = text.split("\n\n");
    for line in blocks.next().unwrap().lines() {
        if let Some(kernel) = line.strip_prefix("# Linux ") {
            golden.kernel = kernel.into();
        } else if let Some(line) = line.strip_prefix("# ipvsadm -") {
            golden.before.push(format!("-{line}"));
        } else if let Some(line) = line.strip_prefix("$ ipvsadm ") {
            golden.line = line.into();
        }
    }
    assert!(!golden.kernel.is_empty() && !golden.line.is_empty(), "{}", golden.name);
    golden.messages = blocks.map(message).collect();
    golden
}

fn message(block: &str) -> Message {
    let (direction, hex) = block.split_once('\n').unwrap();
    let bytes: Vec<u8> =
        hex.split_ascii_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    assert_eq!(length as usize, bytes.len());
    let is_request = direction == ">";
    let command = bytes[16];
    let space = match command {
        14 => Space::Info,
        _ => Space::Message,
    };
    Message {
        is_request,
        flags: u16::from_le_bytes([bytes[6], bytes[7]]),
        command,
        version: bytes[17],
        payload: attributes_to_host(&bytes[20..], space),
    }
}

/// What attribute numbers mean in a place.
#[derive(Clone, Copy)]
enum Space {
    Message,
    Info,
    Service,
    Destination,
    Daemon,
    Statistics,
}

/// What a value consists of.
enum Kind {
    /// Attributes.
    Nest(Space),
    /// Numbers of so many bytes in the machine's byte order.
    Host(usize),
    /// Bytes in the same order everywhere: names, addresses and ports in network order.
    Bytes,
}

impl Space {
    fn kind(self, number: u16, length: usize) -> Kind {
        match (self, number) {
            (Self::Message, 1) => Kind::Nest(Self::Service),
            (Self::Message, 2) => Kind::Nest(Self::Destination),
            (Self::Message, 3) => Kind::Nest(Self::Daemon),
            (Self::Message, 4..=6) | (Self::Info, 1..=2) => Kind::Host(4),
            (Self::Service, 1 | 2) => Kind::Host(2),
            (Self::Service, 5 | 7 | 8) => Kind::Host(4),
            // NETMASK is a number for IPv6 only; the mask for IPv4 is in network order.
            (Self::Service, 9) => Kind::Bytes,
            (Self::Service, 10 | 12) | (Self::Destination, 10 | 12) => Kind::Nest(Self::Statistics),
            (Self::Destination, 3..=9) => Kind::Host(4),
            (Self::Destination, 11 | 15) => Kind::Host(2),
            (Self::Daemon, 1 | 3) => Kind::Host(4),
            (Self::Daemon, 4 | 7) => Kind::Host(2),
            (Self::Statistics, 1..=10) => Kind::Host(length),
            _ => Kind::Bytes,
        }
    }
}

/// Turns attributes from little-endian into this machine's byte order, which changes nothing where
/// they are the same.
fn attributes_to_host(mut bytes: &[u8], space: Space) -> Vec<u8> {
    let mut host = Vec::new();
    let mut is_ipv6 = false;
    while !bytes.is_empty() {
        let length = u16::from_le_bytes([bytes[0], bytes[1]]);
        let number = u16::from_le_bytes([bytes[2], bytes[3]]);
        let value = &bytes[4..length.into()];
        host.extend(length.to_ne_bytes());
        host.extend(number.to_ne_bytes());
        if matches!((space, number), (Space::Service, 1)) {
            is_ipv6 = value == [10, 0];
        }
        let kind = match (space, number) {
            (Space::Service, 9) if is_ipv6 => Kind::Host(4),
            _ => space.kind(number & 0x3fff, value.len()),
        };
        match kind {
            Kind::Nest(space) => host.extend(attributes_to_host(value, space)),
            Kind::Host(size) if cfg!(target_endian = "big") && size > 0 => {
                host.extend(value.chunks(size).flat_map(|number| number.iter().rev()));
            }
            Kind::Host(_) | Kind::Bytes => host.extend(value),
        }
        let padded = usize::from(length).next_multiple_of(4);
        host.resize(host.len().next_multiple_of(4), 0);
        bytes = &bytes[padded.min(bytes.len())..];
    }
    host
}
