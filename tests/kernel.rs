//! Everything that needs a real kernel, in one binary: `cargo test -p kernel-tests`.
//!
//! It puts itself on a kernel that has IPVS (see the package `lvs-guest`) and runs every case there.
//! If there is no such kernel, it prints why and runs none. That is a failure with
//! `LVS_REQUIRE_KERNEL=1`, and always if there is a kernel that does not start.

// Clippy recognises only functions marked `#[test]` as tests.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod bulk_cases;
mod client_cases;
mod client_privilege_cases;
mod cookbook_cases;
mod director_cases;
mod failover_cases;
mod fork_cases;
mod health_cases;
mod ipvsadm_cases;
mod kube_proxy;
#[path = "../crates/lvs-kube-proxy/tests/cases/mod.rs"]
mod kube_proxy_table;
mod lvs_cases;
mod lvs_director_cases;
mod nat_cases;
mod netns_link_cases;
mod netns_privilege_cases;
mod netns_route_cases;
mod observe_cases;
mod part;
mod scene;
mod table_cases;
mod testbed_cases;
mod traffic_cases;
mod trouble_cases;

use std::{collections::HashSet, fs, io, path::Path};

use libtest_mimic::{Arguments, Trial};

/// The sources whose tests documents name.
const CRATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates");

fn main() {
    guest::assume_role();
    let parts = [
        netns_privilege_cases::PARTS,
        client_privilege_cases::PARTS,
        fork_cases::PARTS,
        lvs_cases::PARTS,
        kube_proxy::PARTS,
    ];
    part::assume(&parts.concat());
    let mut arguments = Arguments::from_args();
    // One after the other: kernels up to 7.0 have one table of services for all network namespaces,
    // so changes in one namespace disturb a long listing in another.
    arguments.test_threads.get_or_insert(1);
    let mut cases = all_cases();
    let mut guest_cases = client_cases::guest_cases();
    let mut has_kernel = true;
    let mut filter_cases = trouble_cases::filter_cases();
    filter_cases.extend(kube_proxy::filter_cases());
    if !arguments.list {
        let entered = guest::Options::from_env().and_then(|mut options| {
            // A guest has a /tmp of its own, also for a checkout there.
            options.write.push(CRATES.into());
            guest::enter(&options)
        });
        match entered {
            Ok(place) => {
                // In one write, since the guest passes both of its streams on as they arrive.
                let line = format!("kernel-tests: on {place}\n");
                eprint!("{line}");
                if !matches!(place, guest::Place::Guest { .. }) {
                    eprintln!("kernel-tests: this machine's modules stay as they are");
                    guest_cases = ignored(guest_cases);
                }
                let is_chosen = |case: &Trial| !arguments.is_filtered_out(case);
                if filter_cases.iter().any(is_chosen) && !trouble_cases::has_filter() {
                    eprintln!("kernel-tests: this kernel has no packet filter for iptables");
                    filter_cases = ignored(filter_cases);
                }
            }
            Err(error) if !guest::is_excused(&error) => guest::fail(&error),
            Err(error) => {
                eprintln!("kernel-tests: {error}");
                has_kernel = false;
                cases = ignored(cases);
                guest_cases = ignored(guest_cases);
                filter_cases = ignored(filter_cases);
            }
        }
    }
    // First, since the other cases' sockets keep their namespaces, and those the modules, for minutes.
    cases.splice(0..0, guest_cases);
    cases.extend(filter_cases);
    cases.push(documents_name_cases(&cases));
    let conclusion = libtest_mimic::run(&arguments, cases);
    if !has_kernel {
        println!("kernel-tests: nothing was tested on a kernel: this machine can get none");
    }
    conclusion.exit();
}

/// Documents name cases as their proof; each named case must exist.
fn documents_name_cases(cases: &[Trial]) -> Trial {
    let known: HashSet<String> = cases.iter().map(|case| case.name().to_owned()).collect();
    Trial::test("documents_name_cases", move || {
        let mut sources = String::new();
        sources_below(Path::new(CRATES), &mut sources)?;
        let document = include_str!("../docs/troubleshooting.md");
        for section in document.split("\n## ").skip(1) {
            let title = section.lines().next().unwrap_or_default();
            let proof = section.lines().find(|line| line.starts_with("Case")).unwrap_or_default();
            let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "docs/troubleshooting.md, {title}: it names no case");
            for name in named {
                assert!(known.contains(name), "docs/troubleshooting.md, {title}: no case {name}");
            }
        }
        // The table of facts: a case, or a test of a crate, for each of both clients.
        let document = include_str!("../CONTRIBUTING.md");
        let section =
            document.split("\n## ").find(|it| it.starts_with("What a client of the kernel"));
        let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| "));
        let mut facts = 0;
        for row in rows.skip(1) {
            facts += 1;
            for column in row.split(" | ").skip(2) {
                let named: Vec<&str> = column.split('`').skip(1).step_by(2).collect();
                assert!(!named.is_empty(), "CONTRIBUTING.md: {row}: a client has no test");
                for name in named {
                    let exists = known.contains(name) || sources.contains(&format!("fn {name}("));
                    assert!(exists, "CONTRIBUTING.md: {row}: there is no test {name}");
                }
            }
        }
        assert!(facts > 8, "CONTRIBUTING.md: the table is not found");
        Ok(())
    })
}

/// All Rust below a folder, as one text.
fn sources_below(folder: &Path, text: &mut String) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources_below(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path)?);
        }
    }
    Ok(())
}

fn ignored(cases: Vec<Trial>) -> Vec<Trial> {
    cases.into_iter().map(|case| case.with_ignored_flag(true)).collect()
}

fn all_cases() -> Vec<Trial> {
    [
        client_cases::cases(),
        client_privilege_cases::cases(),
        failover_cases::cases(),
        fork_cases::cases(),
        health_cases::cases(),
        cookbook_cases::cases(),
        bulk_cases::cases(),
        director_cases::cases(),
        ipvsadm_cases::cases(),
        kube_proxy::cases(),
        lvs_cases::cases(),
        lvs_director_cases::cases(),
        nat_cases::cases(),
        netns_link_cases::cases(),
        netns_privilege_cases::cases(),
        netns_route_cases::cases(),
        observe_cases::cases(),
        table_cases::cases(),
        testbed_cases::cases(),
        traffic_cases::cases(),
        trouble_cases::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
