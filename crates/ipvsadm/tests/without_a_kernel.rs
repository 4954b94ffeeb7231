//! The program where there is no IPVS to speak to: what needs none works, and every mistake is named.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{env, fs, path::Path, process::Command};

use ipvs_table::Command as Line;

/// Status, standard output, standard error.
fn ipvsadm(words: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ipvsadm")).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_needs_no_kernel() {
    for words in [&["-h"][..], &["--help"], &["-v"], &["--man"], &["--completions", "zsh"]] {
        let (status, stdout, stderr) = ipvsadm(words);
        assert_eq!((status, stderr.as_str()), (0, ""), "{words:?}");
        assert!(!stdout.is_empty(), "{words:?}");
    }
    assert!(ipvsadm(&["-v"]).1.starts_with("ipvsadm v1.31 "));
}

/// The shells take the completions, and offer what can follow; they name every option.
#[test]
fn completions() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for shell in ["bash", "zsh", "fish"] {
        let script = ipvsadm(&["--completions", shell]).1;
        let help = ipvsadm(&["-h"]).1;
        let options: Vec<_> = help
            .lines()
            .filter(|line| line.starts_with("  -"))
            .flat_map(|line| line.split([' ', ',', ';', ':']))
            .filter_map(|word| word.strip_prefix("--"))
            .collect();
        assert!(options.len() >= Line::options().count() && options.contains(&"drain"));
        for option in options {
            assert!(script.contains(option), "{shell}: {option}");
        }
        // That of zsh must have this name.
        fs::write(directory.join("_ipvsadm"), script).unwrap();
        for (line, expected) in [
            ("-A -s w", "wlc wrr"),
            ("-As w", "wlc wrr"),
            ("-A --scheduler=w", "wlc wrr"),
            ("--persis", "--persistent --persistent-conn"),
            ("--completions ", "bash fish zsh"),
            ("--start-daemon ", "backup master"),
        ] {
            let Some(offered) = offered(shell, directory, line) else { return };
            for word in expected.split(' ') {
                assert!(offered.contains(word), "{shell}: {line}: {offered}");
            }
            for word in ["sed", "--json"] {
                assert!(!offered.contains(word), "{shell}: {line}: {offered}");
            }
        }
    }
}

/// What a shell offers at the end of a line; `None` where the shell is not installed.
fn offered(shell: &str, directory: &Path, line: &str) -> Option<String> {
    let script = match shell {
        "bash" => {
            "source _ipvsadm; read -ra COMP_WORDS <<<\"ipvsadm ${1/=/ = }\"; [[ $1 != *' ' ]] || \
             COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _ipvsadm; echo \
             \"${COMPREPLY[@]}\""
        }
        // As a person types it.
        "zsh" => {
            "zmodload zsh/zpty; zpty -b it zsh -f -i
             zpty -w it \"PS1='he''re> ' fpath=($PWD \\$fpath); autoload -Uz compinit; compinit -u -D\"
             zpty -r it offered '*here> *'
             zpty -w -n it \"ipvsadm $1\"$'\\t\\t\\C-U'\"echo do''ne\"$'\\n'
             zpty -r it offered '*done*'; print -r -- $offered"
        }
        _ => "source _ipvsadm; complete -C \"ipvsadm $argv[1]\" | string replace -r '\\t.*' ''",
    };
    let (options, name): (&[&str], &[&str]) = match shell {
        "bash" => (&["--norc", "-c"], &["bash"]),
        "zsh" => (&["-f", "-c"], &["zsh"]),
        _ => (&["--no-config", "-c"], &["--"]),
    };
    let output = Command::new("timeout")
        .args(["60", shell])
        .args(options)
        .arg(script)
        .args(name)
        .arg(line)
        .env("HOME", directory)
        .current_dir(directory)
        .output()
        .unwrap();
    if output.status.code() == Some(127) {
        let required = env::var("LVS_REQUIRE_KERNEL").is_ok_and(|it| it == "1");
        assert!(!required, "{shell} is not installed");
        eprintln!("{shell} is not installed");
        return None;
    }
    assert!(output.status.success(), "{shell}: {output:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn mistakes_are_named() {
    for (words, status, said) in [
        (&["-q"][..], 255, "argument 1: -q is not an option"),
        (
            &["foo"],
            255,
            "argument 1: \"foo\" is not an option; a command such as -A or -L is missing",
        ),
        (
            &["–a", "-t", "192.0.2.10:80", "-r", "10.0.0.5"],
            255,
            "argument 1: \"–a\" begins with a dash (U+2013) that is not \"-\"",
        ),
        (&["-A", "-t", "[fe80::1%lo]:80"], 2, "argument 3: \"[fe80::1%lo]:80\" must have no zone"),
        (&["-A", "-t", "fe80::1%lo", "-p"], 2, "must have no zone such as %eth0: IPVS keeps"),
        (
            &["-A", "-t", "2001:db8::1:80", "-s", "rr"],
            2,
            "2001:db8::1:80 is an address without a port; with port 80 it is [2001:db8::1]:80",
        ),
        (&["-A"], 2, "argument 2: -A needs a service: -t, -u, --sctp-service or -f"),
        (&["-A", "-t", "x:80"], 2, "argument 3: \"x\" is neither an address"),
        (&["-Ln", "--grace", "3"], 2, "argument 2: --grace needs --drain"),
        (&["-Ln", "--drain"], 2, "argument 2: --drain does not go with -L"),
        (&["-A", "-f", "1", "--json"], 2, "argument 4: --json does not go with this command"),
        (&["-d", "-f", "1", "-r", "10.0.0.1", "--grace", "1"], 2, "--grace needs --drain"),
        (&["-L", "--watch", "soon"], 2, "--watch must be a number of seconds, not \"soon\""),
        (&["-L", "--watch", "0"], 2, "--watch must be at least 0.1 seconds"),
        (&["-L", "--watch=1e99"], 2, "--watch must be a number of seconds"),
        (&["-L", "--json", "--json"], 2, "--json is given twice"),
        (&["--apply", "x", "--man"], 2, "--man cannot go with --apply"),
        (&["--apply", "x", "--only", "y"], 2, "\"y\" is neither"),
        (&["--apply", "x", "--grace", "1"], 2, "--grace needs --drain"),
        (&["--apply"], 255, "--apply needs a value"),
        (&["--apply", "/no/such/file"], 1, "/no/such/file cannot be read: No such file"),
        // There, 2 means that something differs.
        (&["--diff", "x", "--only", "y"], 1, "\"y\" is neither"),
        (&["--diff"], 1, "--diff needs a value"),
        (&["--dif", "x", "--only", "y"], 1, "\"y\" is neither"),
        (&["--app", "x", "--dry-r", "--json"], 1, "--json does not go with --apply"),
        (&["--diff", "/no/such/file"], 1, "/no/such/file cannot be read: No such file"),
        (&["--completions", "csh"], 2, "--completions must be bash, zsh or fish"),
        (&["-R", "--keep-going", "--dry-run"], 2, "--keep-going cannot go with --dry-run"),
        (&["--watch", "1", "x"], 2, "\"x\" belongs to no option"),
        (&["--json", "-n"], 255, "-n must follow a command"),
        (
            &["--netns", "/no/such/file", "-L"],
            2,
            "network namespace /no/such/file: /no/such/file: No such file",
        ),
    ] {
        let (found, stdout, stderr) = ipvsadm(words);
        assert_eq!((found, stdout.as_str()), (status, ""), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
        assert!(stderr.lines().all(|line| line.starts_with("ipvsadm: ")), "{stderr}");
    }
}

/// A zone in a file, and a byte order mark before it.
#[test]
fn files_are_read_as_they_are_meant() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let write = |name: &str, text: &str| {
        let file = directory.join(name).display().to_string();
        fs::write(&file, text).unwrap();
        file
    };
    let json = r#"{"services":[{"address":"[fe80::1%2]:80"}]}"#;
    for (name, text) in [
        ("zone", "-A -t [fe80::1%lo]:80 -p"),
        ("zone-of-server", "-A -f 1 -6\n-a -f 1 -6 -r fe80::1%lo -m"),
        ("zone.json", json),
    ] {
        for task in ["--apply", "--diff"] {
            let (status, _, stderr) = ipvsadm(&[task, &write(name, text)]);
            assert_eq!(status, if task == "--apply" { 2 } else { 1 }, "{name}: {stderr}");
            assert!(stderr.contains("must have no zone such as %eth0"), "{name}: {stderr}");
        }
    }
    // The mistake is in the second line and not in the mark.
    for (name, text, expected) in [
        ("mark", "\u{feff}-A -t 10.0.0.1:80 -s rr\n-q\n", "mark: line 2, column 1: -q is not"),
        ("mark.json", &format!("\u{feff}{json}"), "must have no zone"),
    ] {
        let (_, _, stderr) = ipvsadm(&["--diff", &write(name, text)]);
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{name}: {stderr}");
    }
}

/// What the kernel would take and would not work, by its line.
#[test]
fn rules_that_would_not_work_are_named_by_line() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rules");
    let rules = "-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 224.0.0.2:80 -g\n\
                 -a -t 10.0.0.1:80 -r 10.1.0.3:80 -g\n-A -t 224.0.0.1:80\n";
    fs::write(&file, rules).unwrap();
    let file = file.to_str().unwrap();
    for (switch, status) in [("--diff", 1), ("--apply", 2)] {
        let (found, stdout, stderr) = ipvsadm(&[switch, file]);
        assert_eq!((found, stdout.as_str()), (status, ""), "{stderr}");
        for (line, object) in [
            (2, "real server 224.0.0.2:80 of service -t 10.0.0.1:80"),
            (4, "service -t 224.0.0.1:80"),
        ] {
            let said = format!("ipvsadm: {file}: line {line}: {object}: ");
            assert!(stderr.contains(&said), "no {said:?} in {stderr}");
        }
        assert!(!stderr.contains("line 3"), "{stderr}");
    }
}

/// What editors of other systems write: a byte order mark and other line ends are no mistakes, and
/// UTF-16 is one that is named.
#[test]
fn files_of_other_editors() {
    let read = |file: &[u8]| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = ["-R".into(), "--dry-run".into()];
        let status = ipvsadm::run_with(arguments, &mut &*file, &mut out, &mut err);
        (status.code(), String::from_utf8_lossy(&err).into_owned())
    };
    assert_eq!(read(b"\xef\xbb\xbf-A -f 1\r\n# a comment\r\n\r\n-A -f 2"), (0, String::new()));
    let utf16 = "ipvsadm: the standard input is UTF-16; save the file as UTF-8\n";
    assert_eq!(read(b"\xff\xfe-\0A\0\n\0"), (255, utf16.to_owned()));
    assert_eq!(read(b"\xfe\xff\0-\0A\0\n"), (255, utf16.to_owned()));
    let pasted = "-A \u{2013}f 1\n-A -t \u{201c}10.0.0.1:80\u{201d}\n";
    let (status, text) = read(pasted.as_bytes());
    assert_eq!(status, 2);
    for words in ["line 1, column 4: \"\u{2013}f\" begins with a dash (U+2013)", "line 2, column 7"]
    {
        assert!(text.contains(words), "{text}");
    }
}
