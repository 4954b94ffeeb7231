//! Any bytes decode to a reply or are refused. The first byte is the command, and its highest bit is set
//! if the service's family is known.
#![no_main]

use ipvs_packet::{AddressFamily, CommandNumber, Reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let [command, payload @ ..] = data {
        let family = (command & 0x80 != 0).then_some(AddressFamily::Ipv6);
        if let Err(error) = Reply::parse(CommandNumber(command & 0x7f), payload, family) {
            assert!(error.offset() <= payload.len(), "{error}");
        }
    }
});
