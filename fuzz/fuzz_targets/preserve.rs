//! A decoded message can be encoded and decoded again to the same value. The first byte is the command.
#![no_main]

use ipvs_packet::{CommandNumber, Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let [command, payload @ ..] = data {
        let command = CommandNumber(*command);
        if let Ok(request) = Request::parse(command, payload) {
            assert_eq!(Request::parse(command, &request.to_bytes()), Ok(request));
        }
        if let Ok(reply) = Reply::parse(command, payload, None) {
            assert_eq!(Reply::parse(command, &reply.to_bytes(), None), Ok(reply));
        }
    }
});
