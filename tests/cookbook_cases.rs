//! The lines of ipvsadm in the cookbook of `lvs`. Its Rust is run by `cargo test --doc -p lvs`.

use std::process::Command;

use kernel_tests::{Outcome, client_case, needing};
use libtest_mimic::Trial;
use lvs::{Desired, client::Client};
use netns_link::NetNs;

const COOKBOOK: &str = include_str!("../crates/lvs/src/cookbook.md");

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let case = client_case("cookbook_lines_are_ipvsadms", lines_are_ipvsadms);
    vec![needing(&[("ipvsadm", "ipvsadm")], case)]
}

/// ipvsadm accepts each recipe, from an empty table on. If the recipe's Rust shows the resulting table,
/// ipvsadm makes the same one.
async fn lines_are_ipvsadms(namespace: NetNs, client: Client) -> Outcome {
    let directory = tempfile::tempdir()?;
    let (mut lines, mut compared) = (0, 0);
    for recipe in COOKBOOK.split("\n## ").skip(1) {
        let (title, text) = recipe.split_once('\n').ok_or("a recipe without text")?;
        // The input of `-R`, if the recipe does not show it.
        std::fs::write(directory.path().join("rules"), "-A -t 10.0.0.185:80 -s rr\n")?;
        let commands = text.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
        for line in commands.ok_or_else(|| format!("no lines: {title}"))?.lines() {
            if line.starts_with("watch ") {
                continue;
            }
            // A table is saved and, elsewhere, restored.
            if line == "ipvsadm -R < rules" {
                client.flush().await?;
            }
            let output = namespace.run(|| {
                Command::new("sh").args(["-c", line]).current_dir(directory.path()).output()
            })??;
            assert!(output.status.success(), "{title}: {line}: {output:?}");
            assert!(output.stderr.is_empty(), "{title}: {line}: {output:?}");
            lines += 1;
        }
        if let Some(expected) = table_of(text) {
            let table = Desired::try_from(&client.snapshot().await?)?.to_string();
            assert_eq!(table, expected, "{title}");
            compared += 1;
        }
        client.flush().await?;
    }
    eprintln!("{lines} lines; {compared} tables compared");
    assert!(lines > 30 && compared > 2, "{lines} lines, {compared} tables");
    Ok(())
}

/// The table at the end of a recipe, if its Rust has only one table.
fn table_of(recipe: &str) -> Option<String> {
    let mut tables = recipe.split("# assert_eq!(rules(&ipvs)?, \"\\\n").skip(1);
    let table = tables.next().filter(|_| !recipe.contains("watch "))?;
    let lines = table.lines().map_while(|line| line.strip_prefix("#     ")?.strip_suffix("\\n\\"));
    tables.next().is_none().then(|| lines.flat_map(|line| [line, "\n"]).collect())
}
