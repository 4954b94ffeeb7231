//! `-h`, `-v` and the manual page, made of the table of options.

use std::fmt::Write as _;

use ipvs_table::{Command, CommandOption, OptionGroup, OptionValue};

use crate::own::OPTIONS;

/// Each way to call the program.
const SYNOPSIS: &[&str] = &[
    "-A|-E SERVICE [-s NAME] [-b FLAGS] [-p [SECONDS]] [-M NETMASK] [--pe NAME] [-o]",
    "-D SERVICE [--drain [--grace SECONDS]]",
    "-a|-e SERVICE -r ADDRESS[:PORT] [-g|-i|-m] [-w WEIGHT] [-x NUMBER] [-y NUMBER] [TUNNEL]",
    "-d SERVICE -r ADDRESS[:PORT] [--drain [--grace SECONDS]]",
    "[-L] [SERVICE] [-n] [LISTING] [--json] [--watch [SECONDS]]",
    "-L -c|--timeout|--daemon [-n] [--json] [--watch [SECONDS]]",
    "-S [-n] [--json]",
    "-R [--keep-going|--dry-run]",
    "--apply FILE [--only LIST] [--drain [--grace SECONDS]] [--dry-run]",
    "--diff FILE [--only LIST]",
    "-C",
    "-Z [SERVICE]",
    "--set TCP TCPFIN UDP",
    "--start-daemon STATE [DAEMON]",
    "--stop-daemon STATE",
    "--completions SHELL | --man",
];

/// The manual page behind its options: headings and paragraphs. What begins with two blanks is
/// an example or a table, and stays as it is.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        "FILES OF RULES",
        &[
            "-S prints, and -R, --apply and --diff read, lines that are command lines of this \
             program, with the word ipvsadm before them or without it. Comments begin with #, and \
             quotes work as in a shell.",
            "-R reads the whole file first. If a line is wrong, all wrong lines are reported with their \
             numbers and nothing is changed, unless --keep-going is given. Then all lines are sent \
             in one batch. If the kernel refuses some of them, ipvsadm reports these, and how many \
             succeeded. A line that adds an existing entry with the same settings counts as a \
             success.",
            "--apply and --diff also take JSON.",
        ],
    ),
    (
        "JSON",
        &[
            "Each listing is one object. -S prints services, each with its settings and real_servers; -L \
             prints the same with statistics, and with version and connection_table_size. With a \
             service, -L prints only that one. -L -c prints connections, --timeout prints timeouts, \
             --daemon prints daemons. Times are seconds. Settings that have their default are left \
             out, and new kernels may add fields.",
            "--apply and --diff take what -S and -L print. They refuse entries that cannot work, with \
             their place, and a listing with uncertain services, which another program changed while \
             they were listed.",
        ],
    ),
    (
        "DRAINING",
        &[
            "With --drain, a real server gets weight 0 before it is deleted, and so no new connections: \
             the one named by -d, all of a service with -D, and those that --apply deletes. It is \
             deleted when it has no connections left, active or inactive, or when the time of --grace \
             is over; remaining connections then break, and standard error shows how many. A closed TCP \
             connection counts as inactive for two minutes.",
            "Clients of a persistent service stay with their real server, even at weight 0, until the kernel \
             forgets them, unless net.ipv4.vs.expire_quiescent_template is 1.",
        ],
    ),
    (
        "EXIT STATUS",
        &[
            "The same as ipvsadm 1.31:",
            "  0    success\n  1    -L of a service that does not exist\n  2    the command \
             line or a line of -R is wrong, or there is no IPVS or no permission to use it\n  255  an \
             unknown option, an option without its value, or the kernel refused a change",
            "With --diff and with --apply --dry-run: 0 if nothing differs, 2 if something does, and 1 for \
             any error.",
        ],
    ),
    (
        "DIFFERENCES FROM IPVSADM 1.31",
        &[
            "The output is the same, except for these bugs of ipvsadm 1.31: it \
             cuts 64-bit counters of real servers to 32 bits; it sorts addresses wrongly when they \
             differ by 2^31 or more; it prints firewall marks from 2^31 on as negative \
             numbers; it prints (null) for the forwarding method bypass; -S loses the thresholds of \
             real servers; -M 24 for IPv4 becomes the mask 0.0.0.24.",
            "-R fails when any of its lines failed, not only the last one; with \
             --keep-going, as the original. Without it, lines that only print (-L, -S, -h, -v) are \
             mistakes.",
            "A real server with direct routing or a tunnel whose port differs from its service's is \
             saved with that port, as by the original, and read with the service's port, since its \
             packets keep theirs. --diff shows both ports.",
            "-h, -v and mistakes in the command line need neither IPVS nor privileges.",
            "Long options may be shortened to any unambiguous prefix.",
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            "IPVSADM_KEEP_GOING: if set, not empty and not 0, -R works as with --keep-going. \
             It is for scripts that call ipvsadm -R: ipvsadm-restore, a systemd unit \
             (Environment=IPVSADM_KEEP_GOING=1), an init script (export IPVSADM_KEEP_GOING=1 in \
             /etc/default/ipvsadm). Such scripts empty the table first, so without this one host name \
             that cannot be resolved at boot leaves the table empty. The exit status still says that \
             a line failed.",
            "NO_COLOR: if set and not empty, --diff has no colours on a terminal either.",
        ],
    ),
    (
        "PRIVILEGES",
        &[
            "All commands except -h, -v, --man and --completions need the capability CAP_NET_ADMIN in \
             the initial user namespace, also for reading; --netns also needs CAP_SYS_ADMIN. The kernel \
             loads the module ip_vs by itself if it has it.",
        ],
    ),
    (
        "EXAMPLES",
        &[
            "A service with two real servers, reached by NAT:",
            "  ipvsadm -A -t 10.0.0.185:80\n  ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.3 -m\n  \
             ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.4 -m\n  ipvsadm -Ln",
            "Delete one of them when its connections have ended, at most five minutes later:",
            "  ipvsadm -d -t 10.0.0.185:80 -r 172.17.0.3 --drain",
            "Keep the table in a file:",
            "  ipvsadm -Sn > /etc/ipvsadm.rules\n  ipvsadm --diff /etc/ipvsadm.rules\n  ipvsadm \
             --apply /etc/ipvsadm.rules",
        ],
    ),
];

/// What `-h` prints.
pub(crate) fn usage() -> String {
    let mut text = version();
    text.push_str(
        "Lists and changes the virtual services of the kernel's load balancer, IPVS.\n\n",
    );
    for line in SYNOPSIS {
        let _ = writeln!(text, "  ipvsadm {line}");
    }
    text.push_str(
        "\nSERVICE is one of -t, -u, --sctp-service with ADDRESS[:PORT], or -f MARK [-6].\n",
    );
    for group in OptionGroup::ALL {
        let _ = writeln!(text, "\n{group}:");
        for option in options(group) {
            let spelling = spelling(option, |word| word.to_owned());
            for (number, line) in wrapped(option.help, 60).into_iter().enumerate() {
                let left = if number == 0 { spelling.as_str() } else { "" };
                match left.len() {
                    0..=33 => {
                        let _ = writeln!(text, "  {left:<33} {line}");
                    }
                    _ => {
                        let _ = writeln!(text, "  {left}\n  {:<33} {line}", "");
                    }
                }
            }
        }
    }
    text.push_str("\nThe manual page: ipvsadm --man | man -l -\n");
    text
}

/// What `-v` prints; scripts take the second word.
pub(crate) fn version() -> String {
    format!("ipvsadm v1.31 (LVS for Rust {})\n", env!("CARGO_PKG_VERSION"))
}

/// What `--man` prints.
pub(crate) fn manual_page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".TH IPVSADM 8 \"\" \"LVS for Rust {version}\" \"System Administration\"\n.SH NAME\n\
         ipvsadm \\- lists and changes the virtual services of the kernel's load balancer, IPVS\n\
         .SH SYNOPSIS\n"
    );
    for (number, line) in SYNOPSIS.iter().enumerate() {
        let _ = writeln!(text, "{}\\fBipvsadm\\fR {}", br(number), escaped(line));
    }
    text.push_str(".SH DESCRIPTION\n");
    for line in [
        "IPVS, also known as LVS, gives each connection to a virtual service to one of its real \
         servers. ipvsadm changes and shows the table of these services. Without arguments \
         it lists the table.",
        "SERVICE is one of -t, -u, --sctp-service with ADDRESS[:PORT], or -f MARK [-6]. The command \
         comes first among the options of ipvsadm 1.31; the others may be anywhere.",
    ] {
        let _ = writeln!(text, "{}\n.PP", escaped(line));
    }
    for group in OptionGroup::ALL {
        let _ = writeln!(text, ".SH {}", group.to_string().to_uppercase());
        for option in options(group) {
            let spelling = spelling(option, |word| format!("\\fB{}\\fR", escaped(word)));
            let _ = writeln!(text, ".TP\n{spelling}\n{}", escaped(option.help));
        }
    }
    for (heading, paragraphs) in SECTIONS {
        let _ = writeln!(text, ".SH {}", escaped(heading));
        for paragraph in *paragraphs {
            let _ = match paragraph.strip_prefix("  ") {
                Some(_) => writeln!(text, ".PP\n.nf\n{}\n.fi", escaped(paragraph)),
                None => writeln!(text, ".PP\n{}", escaped(paragraph)),
            };
        }
    }
    text
}

/// The options of a group: ipvsadm's and our own.
pub(crate) fn options(group: OptionGroup) -> impl Iterator<Item = &'static CommandOption> {
    Command::options().chain(OPTIONS).filter(move |option| option.group == group)
}

/// `-s, --scheduler NAME`, with words that are typed as they are in bold.
fn spelling(option: &CommandOption, bold: impl Fn(&str) -> String) -> String {
    let letters = option.short.chars().map(|letter| format!("-{letter}"));
    let spellings: Vec<_> =
        letters.chain([format!("--{}", option.long)]).map(|word| bold(&word)).collect();
    let value = match option.value {
        OptionValue::None => String::new(),
        OptionValue::Required(value) => format!(" {value}"),
        OptionValue::Optional(value) => format!(" [{value}]"),
    };
    spellings.join(", ") + &value
}

fn br(number: usize) -> &'static str {
    if number == 0 { "" } else { ".br\n" }
}

/// A text for roff.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace("\n.", "\n\\&.")
}

/// Lines of at most `width` characters, broken at blanks.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_described_everywhere() {
        let (usage, page) = (usage(), manual_page());
        for option in OptionGroup::ALL.into_iter().flat_map(options) {
            let long = format!("--{}", option.long);
            assert!(usage.contains(&long), "{long}");
            assert!(page.contains(&escaped(&long)), "{long}");
        }
        let longest = usage.lines().map(str::len).max();
        assert!(longest <= Some(100), "{longest:?}");
    }
}
