//! Makes the seeds of the corpora: each distinct message of the golden files, and the texts in their
//! command lines.

use std::{fs, io, path::Path};

use support::{DIRECTORY, golden};

#[path = "../../crates/ipvs-packet/tests/support/mod.rs"]
mod support;

fn main() -> io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.join("corpus");
    for golden in golden(&here.join("../crates/ipvs-packet").join(DIRECTORY)) {
        let name = Path::new(&golden.name).file_stem().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        for (index, message) in golden.messages.iter().enumerate() {
            let mut seed = vec![message.command];
            seed.extend(&message.payload);
            let target = if message.is_request { "decode_request" } else { "decode_reply" };
            for target in [target, "preserve"] {
                write(&corpus.join(target), &format!("{name}-{index}"), &seed)?;
            }
        }
        let words: Vec<&str> = golden.line.split_ascii_whitespace().collect();
        for pair in words.windows(2) {
            if ["-t", "-u", "--sctp-service", "-f"].contains(&pair[0]) {
                write(
                    &corpus.join("text_forms"),
                    &format!("{name}-key"),
                    pair.join(" ").as_bytes(),
                )?;
            } else if ["-r", "-M", "-s"].contains(&pair[0]) {
                let file = format!("{name}{}", pair[0]);
                write(&corpus.join("text_forms"), &file, pair[1].as_bytes())?;
            }
        }
    }
    Ok(())
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    // The same bytes under another name say nothing new.
    for entry in fs::read_dir(directory)? {
        if fs::read(entry?.path())? == bytes {
            return Ok(());
        }
    }
    fs::write(directory.join(name), bytes)
}
