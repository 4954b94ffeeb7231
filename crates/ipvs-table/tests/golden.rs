//! Command lines mean what ipvsadm made of them: the golden files of ipvs-packet have the lines that
//! were given to ipvsadm 1.31, and the messages that it sent.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use ipvs_packet::{CommandNumber, Request};
use ipvs_table::Command;

#[path = "../../ipvs-packet/tests/support/mod.rs"]
mod support;

#[test]
fn command_lines_ask_for_what_ipvsadm_asks() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ipvs-packet");
    let mut compared = 0;
    for golden in support::golden(&directory.join(support::DIRECTORY)) {
        for line in golden.before.iter().chain([&golden.line]) {
            let command: Command = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            // What is displayed means the same.
            assert_eq!(command.to_string().parse(), Ok(command.clone()), "{line}");
        }
        let request = golden.line.parse::<Command>().unwrap().request();
        // It asks for the version first, and after a list of services for their destinations.
        let sent = golden.messages.iter().filter(|message| message.is_request);
        let mut sent =
            sent.map(|it| Request::parse(CommandNumber(it.command), &it.payload).unwrap());
        let sent = sent.find(|request| *request != Request::GetInfo);
        match request {
            Some(Request::GetService(_)) => {
                assert!(matches!(sent, Some(Request::GetService(_))), "{}", golden.name);
            }
            None => assert_eq!(sent, None, "{}", golden.name),
            request => assert_eq!(request, sent, "{}: {}", golden.name, golden.line),
        }
        compared += 1;
    }
    assert!(compared > 1, "there are golden files");
}
