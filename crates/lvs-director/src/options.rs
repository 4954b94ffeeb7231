//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Where the running director listens for the other commands.
const SOCKET: &str = "/run/lvs-director/socket";

/// Checks real servers, and keeps IPVS' table, the virtual addresses and kernel settings as a file says.
#[derive(Clone, Debug, Parser)]
#[command(name = "lvs-director", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Says every mistake in a file, and what would change if it were run
    #[arg(long, value_name = "FILE")]
    pub(crate) check: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Does what a file says, and follows the file
    Run(Run),
    /// Prints another program's file in this program's language
    Import {
        /// Whose file it is
        #[arg(long, value_enum, value_name = "PROGRAM")]
        from: From,
        /// Its file
        file: PathBuf,
    },
    /// Prints the JSON Schema of the file
    Schema,
    /// Shows services and members of the running director
    Status {
        #[command(flatten)]
        socket: Socket,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// A member gets no new connections and keeps those that it has
    Drain(Member),
    /// A member is taken out at once
    Maintain(Member),
    /// A member is in service again: the end of drain and maintain
    Enable(Member),
    /// A member gets so many percent of its weight
    Weight {
        #[command(flatten)]
        member: Member,
        /// 0 to 100
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
    },
    /// Makes the director the master or a backup (`role: from-program` in its file)
    Role {
        #[arg(value_enum)]
        role: RoleWord,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lets go what `max_deletions` holds back
    Confirm {
        #[command(flatten)]
        socket: Socket,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// The file
    pub(crate) file: PathBuf,

    /// Where it is stored what this program has made and how servers were; without it, what an earlier
    /// process made stays [default: systemd's state directory, if there is one]
    #[arg(long, value_name = "DIRECTORY", env = "STATE_DIRECTORY")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Where the other commands find this director; an empty text is nowhere
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,

    /// Brings everything to what it should be once, after the first checks, and ends
    #[arg(long)]
    pub(crate) once: bool,

    /// Prints what would change, and ends. Servers of which nothing is known count as healthy
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Socket {
    /// Where the running director listens
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Member {
    /// Its address and port, or its address for all ports
    pub(crate) member: String,

    /// In this service only: its name, or as in `-t 192.0.2.1:80`
    #[arg(long, value_name = "SERVICE", allow_hyphen_values = true)]
    pub(crate) service: Option<String>,

    #[command(flatten)]
    pub(crate) socket: Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum From {
    Keepalived,
    Ldirectord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleWord {
    Master,
    Backup,
}
