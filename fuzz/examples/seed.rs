//! Writes the seeds of the corpora: each distinct message of the golden files, and the texts in their
//! command lines.

use std::{fs, io, path::Path};

use ipvs_table::{Rules, TableDocument};
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
        write(&corpus.join("rules"), name, golden.line.as_bytes())?;
        if let Ok(table) = golden.line.parse::<Rules>().and_then(|rules| rules.table()) {
            let document = TableDocument::from(&table);
            let yaml = serde_saphyr::to_string(&document).map_err(io::Error::other)?;
            write(&corpus.join("table_document"), name, yaml.as_bytes())?;
        }
        let words: Vec<&str> = golden.line.split_ascii_whitespace().collect();
        let arguments: Vec<&str> =
            words.iter().copied().filter(|word| *word != "ipvsadm").collect();
        write(&corpus.join("command_line"), name, arguments.join("\n").as_bytes())?;
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
    // One with all fields, since no golden line has real servers beside their service.
    let table = "-A -t 10.0.0.1:80 -s sh -p 60 -M 24 --pe sip -b sh-port\n\
                 -a -t 10.0.0.1:80 -r 10.1.0.1 -m -w 3 -x 9 -y 3\n\
                 -a -t 10.0.0.1:80 -r [fd00::1]:80 -i --tun-type gue --tun-port 6080 --tun-csum\n\
                 -A -f 10 -6 # a mark\n\
                 -A -u [fd00::2]:53 -o";
    write(&corpus.join("rules"), "table", table.as_bytes())?;
    let snapshot = table.parse::<Rules>().and_then(|rules| rules.table());
    let document = TableDocument::from(&snapshot.map_err(io::Error::other)?);
    let yaml = serde_saphyr::to_string(&document).map_err(io::Error::other)?;
    write(&corpus.join("table_document"), "yaml", yaml.as_bytes())?;
    let json = serde_json::to_string(&document).map_err(io::Error::other)?;
    write(&corpus.join("table_document"), "json", json.as_bytes())
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    // The same bytes under another name add nothing.
    for entry in fs::read_dir(directory)? {
        if fs::read(entry?.path())? == bytes {
            return Ok(());
        }
    }
    fs::write(directory.join(name), bytes)
}
