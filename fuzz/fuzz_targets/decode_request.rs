//! Any bytes decode to a request or are refused. The first byte is the command.
#![no_main]

use ipvs_packet::{CommandNumber, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let [command, payload @ ..] = data
        && let Err(error) = Request::parse(CommandNumber(*command), payload)
    {
        assert!(error.offset() <= payload.len(), "{error}");
    }
});
