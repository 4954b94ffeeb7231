//! Our ipvsadm beside ipvsadm 1.31, each as a process on a real kernel: their output, their
//! effect, and their exit status.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{self, Command as Process, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use ipvs_client::{Client, Snapshot, packet::Service};
use ipvs_table::{Command, CommandLine, Listed, Rules, TableDocument};
use kernel_tests::{Outcome, block_on, client_case, fresh_namespace, key, needing};
use libtest_mimic::{Failed, Trial};
use netns_link::NetNs;
use nix::pty::{OpenptyResult, openpty};
use serde_json::Value;
use testbed::{DockerHost, Family, page};

use crate::{
    scene::{LIMIT, Scene},
    table_cases::{
        changes, command_words, list_options, load, random, run, settings, table,
        without_thresholds,
    },
};

/// The number of random tables in a case.
const TABLES: u32 = 50;
/// The number of random command lines.
const LINES: u32 = 400;

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let beside = [
        client_case("ipvsadm_prints_the_same", prints_the_same),
        client_case("ipvsadm_files_go_both_ways", files_go_both_ways),
        client_case("ipvsadm_command_lines_do_the_same", command_lines_do_the_same),
        client_case("ipvsadm_ends_the_same", ends_the_same),
        client_case("ipvsadm_names_are_the_same", names_are_the_same),
        client_case("ipvsadm_saves_ports_of_others", saves_ports_of_others),
        Trial::test("ipvsadm_lists_connections", || block_on(lists_connections())),
    ];
    let alone = [
        client_case("ipvsadm_restores_all_or_says_what", restores_all_or_says_what),
        client_case("ipvsadm_repeats_what_is_so", repeats_what_is_so),
        client_case("ipvsadm_keeps_going_by_the_environment", keeps_going_by_the_environment),
        client_case("ipvsadm_applies_files", applies_files),
        client_case("ipvsadm_json_has_every_listing", json_has_every_listing),
        client_case("ipvsadm_watches", watches),
        client_case("ipvsadm_on_a_terminal", on_a_terminal),
        client_case("ipvsadm_works_in_a_namespace", works_in_a_namespace),
        client_case("ipvsadm_says_what_is_missing", says_what_is_missing),
        Trial::test("ipvsadm_drains", || block_on(drains())),
    ];
    let beside = beside.into_iter().map(|case| needing(&[("ipvsadm", "ipvsadm")], case));
    let walkthrough = needing(
        &[
            ("ip", "iproute2"),
            ("nginx", "nginx-light"),
            ("curl", "curl"),
            ("busybox", "busybox-static"),
        ],
        Trial::test("ipvsadm_walkthrough", || block_on(walkthrough())),
    );
    let keepalived = needing(
        &[("ipvsadm", "ipvsadm"), ("keepalived", "keepalived")],
        client_case("ipvsadm_saves_keepalived", saves_keepalived),
    );
    beside.chain(alone).chain([walkthrough, keepalived]).collect()
}

/// A directory that contains our ipvsadm under this name.
pub(crate) fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = env::temp_dir().join(format!("lvs-ipvsadm-{}", process::id()));
        fs::create_dir_all(&directory).expect("a directory can be made");
        let program = env!("CARGO_BIN_EXE_ipvsadm-in-tests");
        symlink(program, directory.join("ipvsadm")).expect("a link can be made");
        directory
    })
}

fn our_program() -> String {
    directory().join("ipvsadm").display().to_string()
}

/// How a process ended: its status, its standard output and its standard error.
type Ended = (i32, String, String);

fn end(output: &Output) -> Ended {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn ours(namespace: &NetNs, words: &[&str], input: &str) -> Result<Ended, Failed> {
    Ok(end(&run(namespace, &our_program(), words, input)?))
}

fn theirs(namespace: &NetNs, words: &[&str], input: &str) -> Result<Ended, Failed> {
    Ok(end(&run(namespace, "ipvsadm", words, input)?))
}

/// The output of ours, which must succeed and print nothing to standard error.
fn printed(namespace: &NetNs, line: &str, input: &str) -> Result<String, Failed> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (status, stdout, stderr) = ours(namespace, &words, input)?;
    match (status, stderr.as_str()) {
        (0, "") => Ok(stdout),
        _ => Err(format!("ipvsadm {line}: status {status}\n{stdout}{stderr}").into()),
    }
}

/// Random tables, made by ours and theirs in turn: every listing, `-S`, and one service.
async fn prints_the_same(namespace: NetNs, client: Client) -> Outcome {
    let options = list_options();
    let mut listings = 0;
    for seed in 0..TABLES {
        let writes = random(4000 + seed, table());
        let rules: Rules = writes.iter().filter_map(Command::for_request).collect();
        let make = if seed % 2 == 0 { ours } else { theirs };
        let (status, _, stderr) = make(&namespace, &["-R"], &rules.to_string())?;
        assert_eq!((status, stderr.as_str()), (0, ""), "seed {seed}\n{rules}");
        let snapshot = client.snapshot().await?;
        let mut commands: Vec<Command> = options
            .iter()
            .cycle()
            .skip(3 * seed as usize)
            .take(3)
            .map(|it| Command::List(*it))
            .collect();
        let mut unsorted = options[seed as usize % options.len()];
        unsorted.sorted = false;
        commands.push(Command::List(unsorted));
        if let Some(service) = snapshot.services.values().nth(seed as usize % 3) {
            let mut options = options[seed as usize % options.len()];
            options.listed = Listed::Service(*service.entry.service.key());
            options.sorted = seed % 4 != 0;
            commands.push(Command::List(options));
        }
        for command in commands {
            let line = command.to_string();
            let words: Vec<_> = line.split(' ').collect();
            let (ours, theirs) = (ours(&namespace, &words, "")?, theirs(&namespace, &words, "")?);
            assert_eq!(ours, theirs, "seed {seed}: ipvsadm {line}");
            listings += 1;
        }
        // All settings except the thresholds, which theirs loses.
        let saved: Rules = printed(&namespace, "-Sn", "")?.parse()?;
        assert_eq!(settings(&saved.table()?), settings(&snapshot), "seed {seed}");
        let without = Rules::from(&without_thresholds(&saved.table()?)).to_string();
        assert_eq!((0, without, String::new()), theirs(&namespace, &["-Sn"], "")?, "seed {seed}");
        client.flush().await?;
    }
    eprintln!("{TABLES} tables (seeds 4000 to {}), {listings} listings", 3999 + TABLES);
    Ok(())
}

/// Each program restores what the other one saved.
async fn files_go_both_ways(namespace: NetNs, client: Client) -> Outcome {
    for seed in 0..TABLES {
        let writes = random(5000 + seed, table());
        load(&client, seed, &writes).await?;
        let before = client.snapshot().await?;
        let (our_file, (_, their_file, _)) =
            (printed(&namespace, "-Sn", "")?, theirs(&namespace, &["-Sn"], "")?);
        client.flush().await?;
        let (status, _, stderr) = theirs(&namespace, &["-R"], &our_file)?;
        assert_eq!((status, stderr.as_str()), (0, ""), "seed {seed}\n{our_file}");
        assert_eq!(settings(&client.snapshot().await?), settings(&before), "seed {seed}");
        client.flush().await?;
        printed(&namespace, "-R", &their_file)?;
        let expected = without_thresholds(&before);
        assert_eq!(settings(&client.snapshot().await?), settings(&expected), "seed {seed}");
        // Changes by both, line by line.
        let changes = changes(&writes, seed);
        let lines: Vec<_> =
            changes.iter().map(|write| CommandLine(write).to_string() + "\n").collect();
        let lines = lines.concat();
        let other = fresh_namespace().await?;
        printed(&other, "-R", &their_file)?;
        let (_, _, stderr) = theirs(&namespace, &["-R"], &lines)?;
        assert_eq!(stderr, "", "seed {seed}\n{lines}");
        printed(&other, "-R", &lines)?;
        let other_client = Client::connect_in(&other)?;
        let changed = settings(&other_client.snapshot().await?);
        other_client.flush().await?;
        assert_eq!(settings(&client.snapshot().await?), changed, "seed {seed}\n{lines}");
        client.flush().await?;
    }
    eprintln!("{TABLES} tables (seeds 5000 to {}), each way", 4999 + TABLES);
    Ok(())
}

/// Random command lines, half of them wrong, each run by both on equal tables: status, standard
/// output, the kind of error, and the table afterwards.
async fn command_lines_do_the_same(namespace: NetNs, client: Client) -> Outcome {
    let other = fresh_namespace().await?;
    let other_client = Client::connect_in(&other)?;
    let mut ends = BTreeMap::<(i32, &str), u32>::new();
    for seed in 0..LINES {
        if seed % 20 == 0 {
            for client in [&client, &other_client] {
                client.flush().await?;
                client.add_service(&Service::new(key("-t 10.0.0.1:80"))).await?;
            }
        }
        let words = random(6000 + seed, command_words());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Ours also accepts the number of an encapsulation.
        if words.windows(2).any(|it| it[0] == "--tun-type" && it[1].parse::<u8>().is_ok()) {
            continue;
        }
        let (our_status, our_output, our_error) = ours(&namespace, &words, "")?;
        let (their_status, their_output, their_error) = theirs(&other, &words, "")?;
        let their_kind = kind(their_status, &their_error);
        // Errors that ours finds before the kernel does.
        let is_before = ["must be 1 to 15 bytes long", "threshold"];
        let is_before = our_status == 255 && is_before.iter().any(|it| our_error.contains(it));
        let our_kind = if is_before { their_kind } else { kind(our_status, &our_error) };
        let what = format!("seed {seed}: ipvsadm {words:?}\n{our_error}{their_error}");
        assert_eq!((our_status, our_kind), (their_status, their_kind), "{what}");
        let is_ours = words.iter().any(|word| ["-h", "-v", "--help", "--version"].contains(word));
        if !is_ours {
            // The kernel's own order differs between namespaces.
            let unsorted = words.contains(&"--nosort");
            let [our_output, their_output] = [&our_output, &their_output].map(|output| {
                let mut lines: Vec<_> = output.lines().collect();
                if unsorted {
                    lines.sort_unstable();
                }
                lines
            });
            assert_eq!(our_output, their_output, "{what}");
        }
        let (ours, theirs) = (client.snapshot().await?, other_client.snapshot().await?);
        assert_eq!(settings(&ours), settings(&theirs), "{what}");
        assert_eq!(client.timeouts().await?, other_client.timeouts().await?, "{what}");
        assert_eq!(client.daemons().await?.len(), other_client.daemons().await?.len(), "{what}");
        *ends.entry((our_status, our_kind)).or_default() += 1;
    }
    other_client.flush().await?;
    let count: u32 = ends.values().sum();
    eprintln!("{count} command lines (seeds 6000 to {}), by end: {ends:?}", 5999 + LINES);
    Ok(())
}

/// The kind of an error, from either program's message.
fn kind(status: i32, stderr: &str) -> &'static str {
    let kinds = [
        ("it exists", &["already exists", "already runs", "has already run"][..]),
        ("no service", &["No such service", "Service not defined", "service does not exist"]),
        ("no destination", &["No such destination", "no such destination"]),
        ("no module", &["persistence engine not found", "is not available"]),
        ("no daemon", &["No daemon is running", "no sync daemon of that role"]),
        ("no interface", &["No such device", "has no interface"]),
        ("refused values", &["Invalid operation", "Invalid argument", "the kernel refuses"]),
    ];
    let found = kinds.iter().find(|(_, texts)| texts.iter().any(|text| stderr.contains(text)));
    match (found, status, stderr.is_empty()) {
        (Some((kind, _)), ..) => kind,
        (None, 0, true) => "done",
        (None, 2, false) => "wrong",
        (None, 255, false) => "no such option",
        _ => "?",
    }
}

/// The exit statuses for requests that the kernel refuses, on a fixed table.
async fn ends_the_same(namespace: NetNs, client: Client) -> Outcome {
    let other = fresh_namespace().await?;
    for line in [
        "-A -t 10.0.0.1:80",
        "-A -t 10.0.0.1:80",
        "-A -t 10.0.0.1:81 -s nosuch",
        "-A -t 10.0.0.1:81 --pe nosuch -p",
        "-E -t 10.0.0.9:80",
        "-D -t 10.0.0.9:80",
        "-a -t 10.0.0.9:80 -r 10.0.0.2 -m",
        "-a -t 10.0.0.1:80 -r 10.0.0.2 -m",
        "-a -t 10.0.0.1:80 -r 10.0.0.2 -m",
        "-a -t 10.0.0.1:80 -r 224.0.0.2 -m",
        "-e -t 10.0.0.1:80 -r 10.0.0.3 -m",
        "-d -t 10.0.0.1:80 -r 10.0.0.3",
        "-d -t 10.0.0.9:80 -r 10.0.0.3",
        "-L -t 10.0.0.9:80",
        "-Ln -f 9",
        "-Z -t 10.0.0.9:80",
        "--stop-daemon master",
        "--start-daemon master --mcast-interface nosuch",
        "--start-daemon master --mcast-interface lo",
        "--start-daemon master --mcast-interface lo",
        "-L --daemon",
        "--stop-daemon master",
        "--set 1 2 3",
        "-L --timeout",
        "-Lnc",
        "",
        "-C",
        "-Ln",
    ] {
        let words: Vec<_> = line.split_whitespace().collect();
        let (our_status, our_output, our_error) = ours(&namespace, &words, "")?;
        let (their_status, their_output, their_error) = theirs(&other, &words, "")?;
        let what = format!("ipvsadm {line}\n{our_error}{their_error}");
        assert_eq!((our_status, our_output), (their_status, their_output), "{what}");
        assert_eq!(kind(our_status, &our_error), kind(their_status, &their_error), "{what}");
        assert_ne!(kind(our_status, &our_error), "?", "{what}");
    }
    assert!(client.snapshot().await?.services.is_empty());

    // Files, line by line: the original ends at some mistakes, and else returns what came of the last
    // line. Without --keep-going a file fails if any line does.
    let (good, refused) = ("-A -t 10.0.0.1:80", "-a -t 10.9.0.1:80 -r 10.1.0.1 -m");
    for (bad, at_once) in [(refused, 255), ("-A -t 10.0.0.x", 2), ("-A -Q", 255), ("-D -f 1", 255)]
    {
        for file in [
            format!("{bad}\n{good}\n"),
            format!("{good}\n{bad}\n-A -f 3\n"),
            format!("{good}\n{bad}\n"),
        ] {
            let status = |ended: Ended| ended.0;
            let expected = status(theirs(&other, &["-R"], &file)?);
            let found = status(ours(&namespace, &["-R", "--keep-going"], &file)?);
            assert_eq!(found, expected, "{file}");
            client.flush().await?;
            assert_eq!(status(ours(&namespace, &["-R"], &file)?), at_once, "{file}");
            client.flush().await?;
            theirs(&other, &["-C"], "")?;
        }
    }
    Ok(())
}

/// Without `-n`, and with names as input.
async fn names_are_the_same(namespace: NetNs, _: Client) -> Outcome {
    for line in [
        "-A -t localhost:http -s rr",
        "-a -t localhost:http -r 127.0.0.1:8080 -m",
        "-A -u 127.0.0.1:domain",
        "-A -t [::1]:https",
        "-A -f 7",
        "-a -f 7 -r localhost -g",
        "-A -t 10.0.0.1:4711",
    ] {
        printed(&namespace, line, "")?;
    }
    for line in ["-L", "-S", "-L --stats", "-L -t localhost:http", "-L -c", "-D -t localhost:x"] {
        let words: Vec<_> = line.split_whitespace().collect();
        let (ours, theirs) = (ours(&namespace, &words, "")?, theirs(&namespace, &words, "")?);
        assert_eq!((ours.0, &ours.1), (theirs.0, &theirs.1), "ipvsadm {line}\n{}", ours.2);
    }
    let listed = printed(&namespace, "-L", "")?;
    assert!(listed.contains("TCP  localhost:http rr"), "{listed}");

    // A file saved with names can be read again; the original misreads [NAME]:PORT.
    let (saved, numbers) = (printed(&namespace, "-S", "")?, printed(&namespace, "-Sn", "")?);
    assert!(numbers.contains("-A -t [::1]:443 "), "{numbers}");
    printed(&namespace, "-C", "")?;
    printed(&namespace, "-R", &saved)?;
    assert_eq!(printed(&namespace, "-Sn", "")?, numbers, "{saved}");
    Ok(())
}

async fn restores_all_or_says_what(namespace: NetNs, client: Client) -> Outcome {
    // Wrong lines: all are reported, and nothing is changed.
    let file =
        "-A -t 10.0.0.1:80\n-A -t 10.0.0.2:x\n# a comment\nipvsadm -A -t 10.0.0.3:80 -Q\n-Ln\n";
    let (status, stdout, stderr) = ours(&namespace, &["-R"], file)?;
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert_eq!(
        stderr,
        "ipvsadm: line 2, column 16: \"x\" is neither a port, 0 to 65535, nor the name of a known \
         service\n\
         ipvsadm: line 4, column 27: -Q is not an option\n\
         ipvsadm: line 5, column 1: -L -n changes nothing, so it is no rule\n\
         ipvsadm: nothing was changed; --keep-going, or IPVSADM_KEEP_GOING=1 in the environment, \
         runs the other lines\n"
    );
    assert!(client.services().await?.is_empty());

    // Line by line.
    let (status, stdout, stderr) = ours(&namespace, &["-R", "--keep-going"], file)?;
    assert_eq!(status, 2);
    assert!(stdout.contains("TCP  10.0.0.1:80 wlc"), "{stdout}");
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
    assert!(stderr.ends_with("ipvsadm: 2 of 4 lines were carried out\n"), "{stderr}");
    assert_eq!(client.services().await?.len(), 1);

    // Lines that the kernel refuses are reported by number, and the rest is done.
    let file = "-A -t 10.0.0.1:80 -s rr\n\n-A -t 10.0.0.4:80\n-a -t 10.0.0.5:80 -r 10.1.0.1 -m\n";
    let (status, _, stderr) = ours(&namespace, &["-R"], file)?;
    assert_eq!(status, 255);
    assert_eq!(
        stderr,
        "ipvsadm: line 1: adding service -t 10.0.0.1:80 (NEW_SERVICE): it already exists (EEXIST, \
         errno 17), and differs: scheduler wlc -> rr\n\
         ipvsadm: line 4: adding destination 10.1.0.1:80 to service -t 10.0.0.5:80 (NEW_DEST): the \
         service does not exist (ESRCH, errno 3)\n\
         ipvsadm: 1 of 3 lines were carried out\n"
    );
    assert_eq!(client.services().await?.len(), 2);

    // Only a dry run.
    assert_eq!(printed(&namespace, "-R --dry-run", "-C\n")?, "");
    assert_eq!(client.services().await?.len(), 2);
    assert_eq!(ours(&namespace, &["-R", "--dry-run"], "-Q\n")?.0, 255);
    // A large file.
    let file: String = (0..500)
        .map(|number| {
            let service = format!("10.2.{}.{}:80", number / 250, number % 250);
            let server = |host| format!("-a -t {service} -r 10.1.0.{host} -m\n");
            format!("-A -t {service}\n{}", (1..=10).map(server).collect::<String>())
        })
        .collect();
    printed(&namespace, "-C", "")?;
    printed(&namespace, "-R", &file)?;
    assert_eq!(printed(&namespace, "-Sn", "")?.lines().count(), 5500);
    Ok(())
}

/// A line that repeats an existing entry exactly is a success: the same line twice, a file over its own table,
/// at once and line by line. A line that differs is not.
async fn repeats_what_is_so(namespace: NetNs, client: Client) -> Outcome {
    let service = "-A -t 10.0.0.1:80 -s rr -p 60\n";
    let server = "-a -t 10.0.0.1:80 -r 10.1.0.1 -m -w 3\n";
    let daemon = "--start-daemon master --mcast-interface lo --syncid 7\n";
    let file = format!("{service}{server}{server}-A -f 7\n{daemon}");
    let note = "ipvsadm: line 3 adds what is there already\n".to_owned();
    let whole = "ipvsadm: 5 lines, from line 1 on, add what is there already\n".to_owned();
    for words in [&["-R"][..], &["-R", "--keep-going"]] {
        assert_eq!(ours(&namespace, words, &file)?, (0, String::new(), note.clone()), "{words:?}");
        let saved = printed(&namespace, "-Sn", "")?;
        assert_eq!(saved.lines().count(), 3, "{saved}");
        assert_eq!(ours(&namespace, words, &file)?, (0, String::new(), whole.clone()), "{words:?}");
        assert_eq!(printed(&namespace, "-Sn", "")?, saved);
        // The difference is reported, and nothing is changed.
        for (line, what) in [
            ("-A -t 10.0.0.1:80 -s rr", "and differs: persistence 60 s -> none"),
            ("-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m", "and differs: weight 3 -> 1"),
            ("--start-daemon master --mcast-interface lo --syncid 8", "--syncid 7"),
        ] {
            let (status, _, stderr) = ours(&namespace, words, line)?;
            assert!(status == 255 && stderr.contains(what), "{words:?} {line}: {stderr}");
        }
        // The table at that time counts.
        let changed = "-E -f 7 -s sh\n-A -f 7 -s sh\n-E -f 7 -s rr\n";
        let (status, _, stderr) = ours(&namespace, words, changed)?;
        assert_eq!((status, stderr.as_str()), (0, "ipvsadm: line 2 adds what is there already\n"));
        let (status, _, stderr) =
            ours(&namespace, words, &changed.replace("-A -f 7 -s sh", "-A -f 7"))?;
        let text = "line 2: adding service -f 7 (NEW_SERVICE): it already exists (EEXIST, errno 17), \
                    and differs: scheduler sh -> wlc";
        assert!(stderr.contains(text), "{stderr}");
        assert_eq!(status, if words.len() == 1 { 255 } else { 0 }, "{stderr}");
        printed(&namespace, "-C", "")?;
        printed(&namespace, "--stop-daemon master", "")?;
    }
    // A single command ends as the original's does.
    let line = "-A -t 10.0.0.1:80";
    printed(&namespace, line, "")?;
    assert_eq!(ours(&namespace, &line.split(' ').collect::<Vec<_>>(), "")?.0, 255);
    // A file for --apply may repeat a line as well.
    let table = format!("{service}{server}{server}{service}");
    printed(&namespace, "--apply -", &table)?;
    assert_eq!(printed(&namespace, "--diff -", &table)?, "");
    let (status, _, stderr) = ours(&namespace, &["--apply", "-"], &(table + "-A -t 10.0.0.1:80"))?;
    assert_eq!(status, 2);
    assert!(stderr.contains("is there already, from line 1, and differs: scheduler"), "{stderr}");
    client.flush().await?;
    Ok(())
}

/// If the environment asks for it, an unknown host leaves the rest of a table in place, although a script
/// has flushed the table before it calls `ipvsadm -R`.
async fn keeps_going_by_the_environment(namespace: NetNs, client: Client) -> Outcome {
    let directory = tempfile::tempdir()?;
    let rules = directory.path().join("rules").display().to_string();
    fs::write(
        &rules,
        "# ipvsadm.rules\n-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r web1.invalid:80 -m\n\
         -a -t 10.0.0.1:80 -r 10.1.0.2 -m\n-A -t 10.0.0.1:80 -s rr\n",
    )?;
    let script = "export PATH=\"$1:$PATH:/usr/sbin:/sbin\"; ipvsadm-restore < \"$2\"";
    // The package's script sets its own PATH.
    let restore = directory.path().join("ipvsadm-restore");
    fs::write(
        &restore,
        "#!/bin/bash\nINPUT=\"$(grep -v '^#')\"\nipvsadm -C\necho \"$INPUT\" | ipvsadm -R\n",
    )?;
    fs::set_permissions(&restore, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let boot = |variable: Option<&str>| -> Result<Ended, Failed> {
        let path = format!("{}:{}", directory.path().display(), self::directory().display());
        let output = namespace.run(|| {
            let mut shell = Process::new("bash");
            shell.args(["-c", script, "sh", &path, &rules]).env_remove("IPVSADM_KEEP_GOING");
            shell.envs(variable.map(|value| ("IPVSADM_KEEP_GOING", value))).output()
        })??;
        Ok(end(&output))
    };
    let unknown =
        "\"web1.invalid\" is neither an address such as 10.0.0.185 nor the name of a known host";
    for variable in [None, Some(""), Some("0")] {
        let (status, _, stderr) = boot(variable)?;
        assert!(status == 2 && stderr.contains(unknown), "{variable:?}: {stderr}");
        assert!(stderr.contains("IPVSADM_KEEP_GOING=1"), "{stderr}");
        assert!(client.services().await?.is_empty(), "{variable:?}");
    }
    let (status, _, stderr) = boot(Some("1"))?;
    assert!(status == 2 && stderr.contains(unknown), "{stderr}");
    assert!(
        stderr.contains("3 of 4 lines were carried out (IPVSADM_KEEP_GOING is set)"),
        "{stderr}"
    );
    assert_eq!(
        printed(&namespace, "-Sn", "")?,
        "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.2:80 -m -w 1\n"
    );
    // An option for a dry run takes precedence over the variable.
    let looked = namespace.run(|| {
        let mut ipvsadm = Process::new(our_program());
        ipvsadm.args(["-R", "--dry-run"]).env("IPVSADM_KEEP_GOING", "1");
        ipvsadm.stdin(input("-C\n")?).output().map_err(Failed::from)
    })??;
    assert_eq!(end(&looked), (0, String::new(), String::new()));
    assert_eq!(client.services().await?.len(), 1);
    client.flush().await?;
    Ok(())
}

/// A direct-routed or tunnelled real server whose port differs from its service's, which ipvsadm cannot make:
/// both programs save and read it alike.
async fn saves_ports_of_others(namespace: NetNs, client: Client) -> Outcome {
    let services = "-A -t 10.0.0.1:80 -s rr\n-A -t [2001:db8::1]:443 -s rr\n";
    let rules: Rules = format!(
        "{services}-a -t 10.0.0.1:80 -r 10.1.0.2:8080 --forward-method 3\n\
         -a -t 10.0.0.1:80 -r 10.1.0.3:8080 --forward-method 2\n\
         -a -t 10.0.0.1:80 -r 10.1.0.4:8080 -m\n\
         -a -t [2001:db8::1]:443 -r [2001:db8::2]:8443 --forward-method 3\n"
    )
    .parse()?;
    client.batch(&rules.requests().collect::<Vec<_>>()).await.into_result()?;
    let (saved, theirs_saved) =
        (printed(&namespace, "-Sn", "")?, theirs(&namespace, &["-Sn"], "")?);
    assert_eq!((0, saved.clone(), String::new()), theirs_saved);
    let ports = |table: &Snapshot| -> Vec<_> {
        let servers = table.services.values().flat_map(|service| &service.destinations);
        servers.map(|entry| entry.destination.key.to_string()).collect()
    };
    assert_eq!(
        ports(&client.snapshot().await?),
        ["10.1.0.2:8080", "10.1.0.3:8080", "10.1.0.4:8080", "[2001:db8::2]:8443"]
    );
    // A comparison shows the port that each has.
    let (status, shown, _) = ours(&namespace, &["--diff", "-"], &saved)?;
    assert!(status == 2 && shown.contains("- -t 10.0.0.1:80 -> 10.1.0.2:8080\n"), "{shown}");
    assert!(!shown.contains("10.1.0.4"), "{shown}");
    // Both restore it, to the same table.
    let other = fresh_namespace().await?;
    let other_client = Client::connect_in(&other)?;
    assert_eq!(theirs(&other, &["-R"], &saved)?, (0, String::new(), String::new()));
    client.flush().await?;
    printed(&namespace, "-R", &saved)?;
    let restored = client.snapshot().await?;
    assert_eq!(settings(&restored), settings(&other_client.snapshot().await?));
    assert_eq!(
        ports(&restored),
        ["10.1.0.2:80", "10.1.0.3:80", "10.1.0.4:8080", "[2001:db8::2]:443"]
    );
    // Two with the same address differ only in their ports.
    let both = "-A -f 1 -s rr\n-A -t 10.0.0.1:80 -s rr\n\
                -a -t 10.0.0.1:80 -r 10.1.0.2:80 -g -w 1\n\
                -a -t 10.0.0.1:80 -r 10.1.0.2:8080 --forward-method 3 -w 1\n";
    client.flush().await?;
    other_client.flush().await?;
    printed(&namespace, "-R", both)?;
    let saved = printed(&namespace, "-Sn", "")?;
    client.flush().await?;
    printed(&namespace, "-R", &saved)?;
    assert_eq!(printed(&namespace, "-Sn", "")?, saved);
    assert_eq!(ports(&client.snapshot().await?), ["10.1.0.2:80", "10.1.0.2:8080"]);
    client.flush().await?;
    Ok(())
}

async fn applies_files(namespace: NetNs, client: Client) -> Outcome {
    let wanted = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m -w 3\n";
    printed(
        &namespace,
        "-R",
        "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m\n-a -t 10.0.0.1:80 -r 10.1.0.2 \
         -m\n-A -t 10.9.0.1:80\n-A -f 7\n",
    )?;
    let before = settings(&client.snapshot().await?);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("rules").display().to_string();
    fs::write(&file, wanted)?;

    // Dry runs change nothing and return 2.
    let (status, shown, _) = ours(&namespace, &["--diff", &file], "")?;
    assert_eq!(status, 2);
    assert!(shown.contains("- -t 10.9.0.1:80") && shown.contains("10.1.0.1:80"), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown}");
    let (status, shown, _) = ours(&namespace, &["--apply", &file, "--dry-run"], "")?;
    assert_eq!(status, 2);
    assert_eq!(
        shown,
        "ipvsadm -e -t 10.0.0.1:80 -r 10.1.0.1:80 -m -w 3\n\
         ipvsadm -d -t 10.0.0.1:80 -r 10.1.0.2:80\n\
         ipvsadm -D -t 10.9.0.1:80\n\
         ipvsadm -D -f 7\n"
    );
    assert_eq!(settings(&client.snapshot().await?), before);

    // Only our own is deleted.
    printed(&namespace, &format!("--apply {file} --only 10.0.0.0/16"), "")?;
    let saved = printed(&namespace, "-Sn", "")?;
    assert!(saved.contains("10.9.0.1:80") && saved.contains("-f 7"), "{saved}");
    assert!(saved.contains("-w 3") && !saved.contains("10.1.0.2"), "{saved}");
    printed(&namespace, &format!("--apply {file} --only fwmark,10.9.0.1"), "")?;
    assert_eq!(printed(&namespace, "-Sn", "")?, wanted.replace("10.1.0.1 ", "10.1.0.1:80 "));
    for line in [format!("--diff {file}"), format!("--apply {file}")] {
        assert_eq!(printed(&namespace, &line, "")?, "", "{line}");
    }

    // What the kernel refuses is reported, with what was done, while draining and while reading.
    let refused = format!("{wanted}-A -t 10.0.0.2:80 -s nosuch\n-A -t 10.0.0.3:80\n");
    fs::write(&file, &refused)?;
    for more in ["", " --drain"] {
        let line = format!("--apply {file}{more}");
        let (status, stdout, stderr) =
            ours(&namespace, &line.split_whitespace().collect::<Vec<_>>(), "")?;
        assert_eq!(
            (status, stdout.as_str()),
            (255, "+ -t 10.0.0.3:80 -s wlc\n"),
            "{line}: {stderr}"
        );
        assert!(stderr.contains("ip_vs_nosuch") && stderr.contains("failed: 1"), "{stderr}");
        printed(&namespace, "-D -t 10.0.0.3:80", "")?;
    }
    let script = "\"$0\" --apply \"$1\" | true; exit ${PIPESTATUS[0]}";
    let (status, _, stderr) =
        end(&run(&namespace, "bash", &["-c", script, &our_program(), &file], "")?);
    assert_eq!(status, 255);
    assert!(stderr.contains("ip_vs_nosuch") && stderr.contains("failed: 1"), "{stderr}");
    printed(&namespace, "-D -t 10.0.0.3:80", "")?;
    fs::write(&file, wanted)?;

    // A draining real server is not deleted by the first commands.
    let (_, shown, _) =
        ours(&namespace, &["--apply", "-", "--drain", "--dry-run"], "-A -t 10.0.0.1:80 -s rr\n")?;
    assert_eq!(
        shown,
        "ipvsadm -e -t 10.0.0.1:80 -r 10.1.0.1:80 -m -w 0\n\
         # when its connections have ended: ipvsadm -d -t 10.0.0.1:80 -r 10.1.0.1:80\n"
    );
    // An empty file is refused.
    let (status, _, stderr) = ours(&namespace, &["--apply", "-"], "# nothing\n")?;
    assert!(status == 2 && stderr.contains("the file has no rules"), "{stderr}");

    // JSON, from the standard input: a saved table, and a listing of it.
    let json = printed(&namespace, "-S --json", "")?;
    for document in [&json, &printed(&namespace, "--json", "")?] {
        assert_eq!(printed(&namespace, "--apply -", document)?, "");
        printed(&namespace, "-C", "")?;
        assert_eq!(printed(&namespace, "--apply -", document)?.lines().count(), 2);
        assert_eq!(printed(&namespace, "-S --json", "")?, json);
    }
    let timeouts = printed(&namespace, "-L --timeout --json", "")?;
    let (status, _, stderr) = ours(&namespace, &["--apply", "-"], &timeouts)?;
    assert!(status == 2 && stderr.contains("timeouts: there is no such field here"), "{stderr}");

    // Mistakes are reported with their line, change nothing, and do not count as a difference.
    fs::write(&file, "-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.1.0.300 -m\n")?;
    let (status, _, stderr) = ours(&namespace, &["--diff", &file], "")?;
    assert_eq!(status, 1);
    assert!(stderr.contains("rules: line 2, column 22: \"10.1.0.300\""), "{stderr}");
    let (status, _, stderr) = ours(&namespace, &["--apply", &file], "")?;
    assert!(status == 2 && stderr.ends_with("nothing was changed\n"), "{stderr}");
    let (status, _, stderr) = ours(&namespace, &["--diff", "/nowhere"], "")?;
    assert!(status == 1 && stderr.contains("/nowhere cannot be read"), "{stderr}");
    assert_eq!(printed(&namespace, "-S --json", "")?, json);
    Ok(())
}

async fn json_has_every_listing(namespace: NetNs, client: Client) -> Outcome {
    let rules = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m -w 3\n--set 7 8 9\n\
                 --start-daemon master --mcast-interface lo --syncid 7\n";
    printed(&namespace, "-R", rules)?;
    let json = |line: &str| -> Result<Value, Failed> {
        Ok(serde_json::from_str(&printed(&namespace, line, "")?)?)
    };
    let mut table = json("--json")?;
    assert_eq!(table, json("-Ln --json")?);
    let object = table.as_object_mut().ok_or("an object")?;
    assert_eq!(object.remove("version"), Some("1.2.1".into()));
    let size = client.info().await?.connection_table_size;
    assert_eq!(object.remove("connection_table_size"), Some(size.into()));
    assert_eq!(table["services"][0]["statistics"]["connections"], 0);
    let read: TableDocument = serde_json::from_value(table.clone())?;
    assert_eq!(settings(read.snapshot()), settings(&client.snapshot().await?));
    assert_eq!(table, json("-L -t 10.0.0.1:80 --json")?);
    assert_eq!(json("-L --timeout --json")?["timeouts"]["udp"], 9);
    assert_eq!(json("-L --daemon --json")?["daemons"][0]["interface"], "lo");
    assert_eq!(json("-Lc --json")?, serde_json::json!({"connections": []}));
    assert_eq!(json("-S --json")?["services"][0]["real_servers"][0]["weight"], 3);
    // Complete documents, as README.md promises.
    assert_eq!(
        json("-L --daemon --json")?,
        serde_json::json!({"daemons": [{
            "role": "master", "interface": "lo", "sync_id": 7, "max_length": 1472,
            "group": "224.0.0.81", "port": 8848, "ttl": 1,
        }]})
    );
    assert_eq!(
        json("-L --timeout --json")?,
        serde_json::json!({"timeouts": {"tcp": 7, "tcp_fin": 8, "udp": 9}})
    );
    let statistics = serde_json::json!({
        "connections": 0, "incoming_packets": 0, "outgoing_packets": 0, "incoming_bytes": 0,
        "outgoing_bytes": 0, "connection_rate": 0, "incoming_packet_rate": 0,
        "outgoing_packet_rate": 0, "incoming_byte_rate": 0, "outgoing_byte_rate": 0,
    });
    printed(&namespace, "-A -u 10.0.0.2:53 -s sh -b sh-port,flag-3 -o -p 60 -M 255.255.255.0", "")?;
    let real_server =
        "-a -u 10.0.0.2:53 -r 10.1.0.1 -i --tun-type gue --tun-port 5 --tun-csum -x 5 -y 3";
    printed(&namespace, real_server, "")?;
    assert_eq!(
        json("-L -u 10.0.0.2:53 --json")?,
        serde_json::json!({"services": [{
            "address": "10.0.0.2:53", "protocol": "udp", "scheduler": "sh",
            "persistence": {"timeout": 60, "netmask": "255.255.255.0"}, "one_packet": true,
            "scheduler_flags": ["sh-port", "flag-3"],
            "statistics": statistics,
            "real_servers": [{
                "address": "10.1.0.1:53", "forwarding": "tunnel", "weight": 1,
                "upper_threshold": 5, "lower_threshold": 3,
                "tunnel": {"type": "gue", "port": 5, "checksum": true},
                "active_connections": 0, "inactive_connections": 0, "persistent_connections": 0,
                "statistics": statistics,
            }],
        }]})
    );
    printed(&namespace, "--stop-daemon master", "")?;
    Ok(())
}

/// Lists repeatedly until it is ended; a listing also ends when its reader goes away.
async fn watches(namespace: NetNs, client: Client) -> Outcome {
    let begun = Instant::now();
    let start = |words: &'static [&str]| {
        namespace.run(|| {
            Process::new(our_program())
                .args(words)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        })
    };
    let mut child = start(&["-Ln", "--watch", "0.1"])??;
    let mut lines = BufReader::new(child.stdout.take().ok_or("a pipe")?).lines();
    let mut seen = 0;
    client.add_service(&Service::new(key("-t 10.0.0.1:80"))).await?;
    while seen < 3 {
        let line = lines.next().ok_or("it ended")??;
        seen += usize::from(line == "TCP  10.0.0.1:80 wlc");
        assert!(begun.elapsed() < LIMIT);
    }
    drop(lines);
    let (mut stderr, status) = (String::new(), child.wait()?);
    child.stderr.take().ok_or("a pipe")?.read_to_string(&mut stderr)?;
    assert_eq!((status.code(), stderr.as_str()), (Some(141), ""));

    let mut child = start(&["--json", "--watch", "0.1"])??;
    let mut lines = BufReader::new(child.stdout.take().ok_or("a pipe")?).lines();
    for _ in 0..2 {
        let line = lines.next().ok_or("it ended")??;
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Output on a terminal: colours unless switched off, a screen that is listed repeatedly, and
/// the progress of a long restore.
async fn on_a_terminal(namespace: NetNs, client: Client) -> Outcome {
    client.add_service(&Service::new(key("-t 10.0.0.1:80"))).await?;
    let diff = |variables: &[(&str, &str)]| -> Result<String, Failed> {
        let mut terminal = Terminal::new()?;
        let mut command = terminal.command(&["--diff", "-"]);
        command.stdin(input("-A -t 10.0.0.2:80\n")?).stdout(terminal.file()?);
        command.envs(variables.iter().copied());
        let mut child = namespace.run(|| command.spawn())??;
        drop(command);
        let shown = terminal.rest();
        assert_eq!(child.wait()?.code(), Some(2), "{shown}");
        Ok(shown)
    };
    let plain = "+ -t 10.0.0.2:80 -s wlc\r\n- -t 10.0.0.1:80\r\n";
    let coloured = diff(&[("TERM", "xterm")])?;
    assert!(coloured.contains("\x1b[32m") && coloured.contains("\x1b[31m"), "{coloured:?}");
    let without = coloured.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", "");
    assert_eq!(without, plain);
    for variables in [&[("TERM", "xterm"), ("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
        assert_eq!(diff(variables)?, plain, "{variables:?}");
    }
    // A variable that is set but empty counts as unset.
    assert_eq!(diff(&[("TERM", "xterm"), ("NO_COLOR", "")])?, coloured);

    let mut terminal = Terminal::new()?;
    let mut command = terminal.command(&["-Ln", "--watch", "0.1"]);
    command.stdin(Stdio::null()).stdout(terminal.file()?);
    let mut child = namespace.run(|| command.spawn())??;
    drop(command);
    let listing = printed(&namespace, "-Ln", "")?.replace('\n', "\r\n");
    let twice = format!("\x1b[H\x1b[J{listing}").repeat(2);
    let seen = terminal.up_to(twice.len())?;
    child.kill()?;
    child.wait()?;
    assert_eq!(seen, twice);

    // For each added real server the kernel goes through the recently deleted ones, so this takes a
    // second or more.
    let servers = 36_000_u32;
    let file: String = (0..servers)
        .map(|number| {
            let (service, server) = (number / 250, number % 250);
            let key = format!("-t 10.3.0.{service}:80");
            let add = if server == 0 { format!("-A {key}\n") } else { String::new() };
            format!("{add}-a {key} -r 10.1.0.{server} -m\n")
        })
        .collect();
    printed(&namespace, "-R", &file)?;
    client.flush().await?;
    let mut terminal = Terminal::new()?;
    let mut command = terminal.command(&["-R"]);
    command.stdin(input(&file)?).stdout(Stdio::null()).stderr(terminal.file()?);
    let mut child = namespace.run(|| command.spawn())??;
    drop(command);
    let shown = terminal.rest();
    assert!(child.wait()?.success(), "{shown}");
    let bars: Vec<_> = shown.split('\r').filter(|bar| bar.contains(" of 36144 lines, ")).collect();
    assert!(!bars.is_empty() && bars.iter().all(|bar| bar.starts_with('[')), "{shown:?}");
    assert!(bars.iter().all(|bar| bar.ends_with(" s left\x1b[K")), "{shown:?}");
    assert!(shown.ends_with("\r\x1b[K"), "the line is free again: {shown:?}");
    Ok(())
}

/// A file with a text, used as standard input.
fn input(text: &str) -> Result<fs::File, Failed> {
    let mut file = tempfile::tempfile()?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// A pseudo terminal, and the output to it.
struct Terminal {
    user: fs::File,
    /// The side that programs use.
    program: Option<OwnedFd>,
}

impl Terminal {
    fn new() -> Result<Self, Failed> {
        let OpenptyResult { master, slave } = openpty(None, None)?;
        Ok(Self { user: master.into(), program: Some(slave) })
    }

    fn command(&self, words: &[&str]) -> Process {
        let mut command = Process::new(our_program());
        command.args(words).stderr(Stdio::inherit()).env_remove("NO_COLOR");
        command
    }

    /// The program's side, which can be taken once.
    fn file(&mut self) -> Result<Stdio, Failed> {
        Ok(self.program.take().ok_or("a terminal is for one stream")?.into())
    }

    /// All output until the program has ended.
    fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // Linux reports the end as EIO.
        let _ = self.user.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn up_to(&mut self, length: usize) -> Result<String, Failed> {
        let mut bytes = vec![0; length];
        self.user.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A namespace given by name, process and path.
async fn works_in_a_namespace(namespace: NetNs, client: Client) -> Outcome {
    client.add_service(&Service::new(key("-t 10.0.0.1:80"))).await?;
    let elsewhere = fresh_namespace().await?;
    let child = namespace.run(|| Process::new("sleep").arg("60").spawn())?;
    let mut child = child?;
    let name = format!("lvs-ipvsadm-{}", process::id());
    let named = NetNs::create(&name)?;
    let named_client = Client::connect_in(&named)?;
    named_client.add_service(&Service::new(key("-f 9"))).await?;
    let pid = child.id().to_string();
    let result = (|| {
        for (namespace, expected) in [
            (pid.clone(), "-A -t 10.0.0.1:80 -s wlc\n"),
            (format!("/proc/{pid}/ns/net"), "-A -t 10.0.0.1:80 -s wlc\n"),
            (name.clone(), "-A -f 9 -s wlc\n"),
        ] {
            let line = format!("--netns {namespace} -Sn");
            assert_eq!(printed(&elsewhere, &line, "")?, expected, "{line}");
        }
        assert_eq!(printed(&elsewhere, "-Sn", "")?, "");
        let (status, _, stderr) = ours(&elsewhere, &["-Ln", "--netns", "nowhere"], "")?;
        assert_eq!(status, 2);
        assert!(stderr.contains("network namespace nowhere: /run/netns/nowhere: "), "{stderr}");
        let (status, _, stderr) = ours(&elsewhere, &["-Ln", "--netns", "/etc/passwd"], "")?;
        assert_eq!(status, 2);
        assert!(stderr.contains("network namespace /etc/passwd: "), "{stderr}");
        Ok::<(), Failed>(())
    })();
    named_client.flush().await?;
    NetNs::delete(&name)?;
    child.kill()?;
    child.wait()?;
    result
}

/// Without privileges, and with an unknown scheduler.
async fn says_what_is_missing(namespace: NetNs, _: Client) -> Outcome {
    let program = our_program();
    let user = ["--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set", "-all"];
    let as_user = |words: &[&str]| -> Result<Ended, Failed> {
        let words: Vec<&str> =
            user.iter().copied().chain([program.as_str()]).chain(words.iter().copied()).collect();
        Ok(end(&run(&namespace, "setpriv", &words, "-C\n")?))
    };
    for words in [&["-Ln"][..], &["-A", "-t", "10.0.0.1:80"], &["-R"], &["-Lnc"], &["-S"]] {
        let (status, _, stderr) = as_user(words)?;
        assert_eq!(status, 2, "{words:?}: {stderr}");
        assert!(stderr.contains("CAP_NET_ADMIN"), "{words:?}: {stderr}");
    }
    // Commands that need no privilege.
    assert_eq!(as_user(&["-h"])?.0, 0);
    assert_eq!(as_user(&["-A"])?.0, 2);
    let (status, _, stderr) = ours(&namespace, &["-A", "-f", "1", "-s", "nosuch"], "")?;
    assert_eq!(status, 255);
    assert!(stderr.contains("scheduler module ip_vs_nosuch is not available"), "{stderr}");
    Ok(())
}

/// Connections, also of persistent services, beside the original and as JSON.
async fn lists_connections() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    let here = scene.host.namespace();
    scene.service("rr").apply(&scene.client).await?;
    scene.fetch(here, 4).await?;
    let key = *scene.service("rr").key();
    printed(here, &format!("-E {key} -s rr -p 300"), "")?;
    scene.fetch(here, 2).await?;
    // A second may pass between two listings.
    let rows = |listing: &str| -> Vec<String> {
        let without_time = |line: &str| {
            let mut words: Vec<_> = line.split(' ').collect();
            if let Some(time) = words.iter_mut().find(|word| word.contains(':')) {
                *time = &"00:00"[..time.len().min(5)];
            }
            words.join(" ")
        };
        listing.lines().map(without_time).collect()
    };
    for line in ["-Lnc", "-Lc", "-L -n --connection --persistent-conn", "-lnc --sort"] {
        let words: Vec<_> = line.split(' ').collect();
        let (ours, theirs) = (ours(here, &words, "")?, theirs(here, &words, "")?);
        assert_eq!(rows(&ours.1), rows(&theirs.1), "{line}");
        assert!(ours.1.lines().count() >= 2 + 7, "{line}: {}", ours.1);
        assert_eq!((ours.0, ours.2), (theirs.0, theirs.2), "{line}");
    }
    let json: Value = serde_json::from_str(&printed(here, "-Lc --json", "")?)?;
    let connections = json["connections"].as_array().ok_or("a list")?;
    let listed = printed(here, "-Lnc", "")?;
    assert_eq!(connections.len(), listed.lines().count() - 2);
    for connection in connections {
        for field in ["protocol", "client", "virtual_address", "destination", "state", "expires"] {
            assert!(!connection[field].is_null(), "{field}: {connection}");
        }
    }

    // An input error is not reported as an error of standard output.
    for more in ["", "--json"] {
        let script = format!("mount -t tmpfs none /proc; exec {} -Lc {more}", our_program());
        let (status, _, stderr) =
            end(&run(here, "unshare", &["--mount", "sh", "-c", &script], "")?);
        assert_eq!(status, 1, "{stderr}");
        assert!(stderr.starts_with("ipvsadm: reading the connection table"), "{stderr}");
    }
    scene.client.flush().await?;
    Ok(())
}

/// Entries with connections are deleted when these have ended, or when the time is over: by `-d`, by `-D`
/// and by `--apply`, with the same messages.
async fn drains() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    let here = scene.host.namespace();
    let service = scene.service("rr");
    let key = *service.key();
    let timed = |line: &str, input: &str| -> Result<(Ended, Duration), Failed> {
        let begun = Instant::now();
        let words: Vec<_> = line.split_whitespace().collect();
        Ok((ours(here, &words, input)?, begun.elapsed()))
    };
    let leaves = |server: &str| {
        format!("~ {key} -> {server} weight 1 -> 0 (it leaves)\n- {key} -> {server}\n")
    };
    // The fetched connections stay in TIME_WAIT for two minutes, so the time limit ends the draining.
    let [first, second] = [0, 1].map(|at| format!("{}:80", scene.pods[at].address()));
    let broken = |what: &str, count: u32| {
        format!("ipvsadm: {what} was deleted with {count} connections left\n")
    };
    service.apply(&scene.client).await?;
    scene.fetch(here, 4).await?;
    let (ended, elapsed) = timed(&format!("-d {key} -r {first} --drain --grace 2"), "")?;
    let real_server = |server: &str| format!("real server {server} of {key}");
    assert_eq!(ended, (0, leaves(&first), broken(&real_server(&first), 2)));
    assert!(elapsed >= Duration::from_secs(2) && elapsed < LIMIT, "{elapsed:?}");
    let rest = format!("-A {key} -s rr\n");
    let (ended, elapsed) = timed("--apply - --drain --grace 2", &rest)?;
    assert_eq!(ended, (0, leaves(&second), broken(&real_server(&second), 2)));
    assert!(elapsed >= Duration::from_secs(2), "{elapsed:?}");
    assert!(scene.client.destinations(&key).await?.is_empty());

    // A whole service.
    service.apply(&scene.client).await?;
    let (ended, elapsed) = timed(&format!("-D {key} --drain --grace 2"), "")?;
    assert_eq!((ended.0, ended.2), (0, broken(&format!("service {key}"), 4)));
    assert!(ended.1.ends_with(&format!("- {key} with 2 real servers\n")), "{}", ended.1);
    assert_eq!(ended.1.lines().filter(|line| line.ends_with("(it leaves)")).count(), 2);
    assert!(elapsed >= Duration::from_secs(2), "{elapsed:?}");
    assert!(scene.client.services().await?.is_empty());

    // Without a reader it still does its work.
    service.apply(&scene.client).await?;
    let script = "\"$0\" \"$@\" | true; exit ${PIPESTATUS[0]}";
    let file = tempfile::NamedTempFile::new()?;
    fs::write(&file, &rest)?;
    let file = file.path().display().to_string();
    let words = ["-c", script, &our_program(), "--apply", &file, "--drain", "--grace", "1"];
    let unread = end(&run(here, "bash", &words, "")?);
    assert_eq!(unread.0, 141, "{unread:?}");
    assert!(scene.client.destinations(&key).await?.is_empty());

    // An entry without connections is deleted at once; one that does not exist is refused.
    let idle = "10.1.0.77:80";
    printed(here, &format!("-a {key} -r {idle} -m"), "")?;
    let (ended, elapsed) = timed(&format!("-d {key} -r {idle} --drain --grace 60"), "")?;
    assert_eq!(ended, (0, leaves(idle), String::new()));
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
    for (line, what) in [
        (format!("-d {key} -r {idle} --drain"), real_server(idle)),
        (format!("-d -f 1 -r {idle} --drain"), format!("real server {idle} of -f 1")),
        ("-D -f 1 --drain".to_owned(), "service -f 1".to_owned()),
    ] {
        let said = format!("ipvsadm: {what} does not exist\n");
        assert_eq!(timed(&line, "")?.0, (255, String::new(), said), "{line}");
    }

    // A message reports that clients of a persistent service stay.
    printed(here, "-A -f 7 -p 60", "")?;
    printed(here, &format!("-a -f 7 -r {idle} -m"), "")?;
    let (ended, _) = timed(&format!("-d -f 7 -r {idle} --drain"), "")?;
    assert!(ended.0 == 0 && ended.2.contains("expire_quiescent_template"), "{ended:?}");
    scene.client.flush().await?;
    Ok(())
}

/// Runs a line in a shell whose ipvsadm is ours.
fn typed(namespace: &NetNs, line: &str) -> Result<String, Failed> {
    let path = env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}:/usr/sbin:/sbin", directory().display());
    let output =
        namespace.run(|| Process::new("sh").args(["-ec", line]).env("PATH", path).output())??;
    match end(&output) {
        (0, stdout, _) => Ok(stdout),
        (status, stdout, stderr) => Err(format!("{line}: {status}\n{stdout}{stderr}").into()),
    }
}

/// A listing without the size of the table of connections in its first line.
fn without_size(listing: &str) -> String {
    let (start, rest) = listing.split_once(" (size=").unwrap_or((listing, ")"));
    let (_, rest) = rest.split_once(')').unwrap_or(("", rest));
    format!("{start}{rest}")
}

/// The walkthrough of kube-proxy's IPVS mode, word for word: NAT, then direct routing.
async fn walkthrough() -> Outcome {
    let host = DockerHost::new(Family::Ipv4).await?;
    let pods = [host.container("pod1", 3).await?, host.container("pod2", 4).await?];
    let container = host.container("client", 5).await?;
    let servers = [pods[0].serve_nginx(80).await?, pods[1].serve_nginx(80).await?];
    host.forward()?;
    host.filter_bridge()?;
    let here = host.namespace();
    for line in [
        "ip link add dummy0 type dummy",
        "ip addr add 10.0.0.185 dev dummy0",
        "ipvsadm -A -t 10.0.0.185:80",
        "ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.3:80 -m",
        "ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.4:80 -m",
    ] {
        assert_eq!(typed(here, line)?, "", "{line}");
    }
    // The size of the table of connections differs from Linux 7.1 on.
    let listing = |line| typed(here, line).map(|text| without_size(&text));
    let title = "IP Virtual Server version 1.2.1\n\
                 Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward \
                 Weight ActiveConn InActConn\nTCP  10.0.0.185:80 wlc\n";
    let rows = |forward: &str| {
        let row = |host| {
            format!(
                "  -> 172.17.0.{host}:80                {forward:<7} 1      0          0         \n"
            )
        };
        row(3) + &row(4)
    };
    assert_eq!(listing("ipvsadm -Ln")?, title.to_owned() + &rows("Masq"));
    let pages = pods.each_ref().map(|pod| page(pod.name()));
    let mut seen = Vec::new();
    for (from, line) in [
        (container.namespace(), "curl -s --max-time 10 http://10.0.0.185/"),
        (container.namespace(), "busybox wget -q -O - http://10.0.0.185/"),
        (here, "curl -s --max-time 10 http://10.0.0.185/"),
        (here, "busybox wget -q -O - http://10.0.0.185/"),
    ] {
        let got = typed(from, line)?;
        assert!(pages.contains(&got), "{line}: {got}");
        seen.push(got);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 2, "{seen:?}");

    // Direct routing: the pods get the address too.
    typed(here, "mkdir -p /var/run/netns")?;
    let names = ["pod1", "pod2"].map(|pod| format!("{pod}-{}", process::id()));
    for (name, server) in names.iter().zip(&servers) {
        typed(here, &format!("ln -s /proc/{}/ns/net /var/run/netns/{name}", server.pid()))?;
        for line in [
            "sh -c 'echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore'",
            "sh -c 'echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce'",
            "ip link add dummy0 type dummy",
            "ip addr add 10.0.0.185 dev dummy0",
            "ip link set dummy0 up",
        ] {
            typed(here, &format!("ip netns exec {name} {line}"))?;
        }
    }
    for line in [
        "ipvsadm -D -t 10.0.0.185:80",
        "ipvsadm -A -t 10.0.0.185:80",
        "ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.3:80 -g",
        "ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.4:80 -g",
    ] {
        assert_eq!(typed(here, line)?, "", "{line}");
    }
    // The kernel remembers the connections of real servers that are added again.
    let listed = listing("ipvsadm -Ln")?;
    let without_connections = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.chars().take(48).collect()).collect()
    };
    let expected = title.to_owned() + &rows("Route");
    assert_eq!(without_connections(&listed), without_connections(&expected), "{listed}");
    typed(here, "echo 1 > /proc/sys/net/ipv4/route/flush")?;
    for _ in 0..4 {
        let got = typed(container.namespace(), "curl -s --max-time 10 http://10.0.0.185/")?;
        assert!(pages.contains(&got), "{got}");
    }
    for name in &names {
        // It is a link to the process's namespace, not a mount.
        fs::remove_file(Path::new("/var/run/netns").join(name))?;
    }
    typed(here, "ipvsadm -C")?;
    Ok(())
}

/// A table that keepalived made, saved and restored by ours, is the same for the original.
async fn saves_keepalived(namespace: NetNs, client: Client) -> Outcome {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("keepalived.conf");
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(
        &file,
        "global_defs {\n  router_id test\n}\n\
         virtual_server 10.0.0.185 80 {\n  lb_algo wrr\n  lb_kind NAT\n  protocol TCP\n  \
         persistence_timeout 300\n  persistence_granularity 255.255.255.0\n  \
         real_server 172.17.0.3 80 {\n    weight 3\n  }\n  \
         real_server 172.17.0.4 8080 {\n    weight 1\n  }\n}\n\
         virtual_server fwmark 7 {\n  lb_algo sh\n  lb_kind DR\n  protocol TCP\n  \
         real_server 172.17.0.3 0 {\n    weight 2\n  }\n}\n\
         virtual_server 2001:db8::1 53 {\n  lb_algo rr\n  lb_kind TUN\n  protocol UDP\n  ops\n  \
         real_server 2001:db8::3 53 {\n    weight 1\n  }\n}\n",
    )?;
    let mut keepalived = namespace.run(|| {
        Process::new("keepalived")
            .args(["--dont-fork", "--check", "--log-console", "--use-file"])
            .arg(&file)
            .args(["--pid", &path("pid"), "--checkers_pid", &path("checkers")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    })??;
    let begun = Instant::now();
    let mut entries = 0;
    while entries < 4 && begun.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let snapshot = client.snapshot().await?;
        entries = snapshot.services.values().map(|service| service.destinations.len()).sum();
    }
    let before = theirs(&namespace, &["-Sn"], "")?;
    let saved = printed(&namespace, "-S -n", "")?;
    // Stopping keepalived deletes its table.
    run(&namespace, "kill", &["-TERM", &keepalived.id().to_string()], "")?;
    keepalived.wait()?;
    let mut log = String::new();
    keepalived.stderr.take().ok_or("a pipe")?.read_to_string(&mut log)?;
    assert_eq!(entries, 4, "{log}");
    assert_eq!(before.1.lines().count(), 7, "{before:?}");
    printed(&namespace, "-C", "")?;
    printed(&namespace, "-R", &saved)?;
    assert_eq!(theirs(&namespace, &["-Sn"], "")?, before);
    Ok(())
}
