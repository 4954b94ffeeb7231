//! Completions for shells, made of the table of options.

use std::fmt::Write as _;

use ipvs_table::{CommandOption, Completion, OptionGroup, OptionValue};

use crate::help::options;

/// A shell for which there are completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "bash" => Some(Self::Bash),
            "zsh" => Some(Self::Zsh),
            "fish" => Some(Self::Fish),
            _ => None,
        }
    }

    pub(crate) fn completions(self) -> String {
        match self {
            Self::Bash => bash(),
            Self::Zsh => zsh(),
            Self::Fish => fish(),
        }
    }
}

fn all() -> impl Iterator<Item = &'static CommandOption> {
    OptionGroup::ALL.into_iter().flat_map(options)
}

/// `-s`, `--scheduler`.
fn spellings(option: &CommandOption) -> Vec<String> {
    let letters = option.short.chars().map(|letter| format!("-{letter}"));
    letters.chain([format!("--{}", option.long)]).collect()
}

fn bash() -> String {
    // Bash takes the = of --scheduler=wrr for a word.
    let mut text = "\
_ipvsadm() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    case $before in
"
    .to_owned();
    for option in all() {
        let choice = match (option.value, option.completion) {
            (OptionValue::None, _) => continue,
            (_, Completion::Words(words)) => format!("-W '{words}'"),
            (_, Completion::Lines(command)) => format!("-W \"$({command})\""),
            (_, Completion::Files) => "-f".to_owned(),
            (OptionValue::Required(_), _) => "-W ''".to_owned(),
            (OptionValue::Optional(_), _) => continue,
        };
        // A letter may stand at the end of others: -As.
        let letters = option.short.chars().map(|letter| format!("-{letter}|-[!-]*{letter}"));
        let spellings: Vec<_> = letters.chain([format!("--{}", option.long)]).collect();
        let spellings = spellings.join("|");
        let _ = writeln!(
            text,
            "    {spellings})\n        mapfile -t COMPREPLY < <(compgen {choice} -- \"$word\")\n        \
             return\n        ;;"
        );
    }
    let options: Vec<_> = all().flat_map(spellings).collect();
    let _ = writeln!(
        text,
        "    esac\n    mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$word\")\n}}\ncomplete -F \
         _ipvsadm ipvsadm",
        options.join(" ")
    );
    text
}

fn zsh() -> String {
    let mut text = "#compdef ipvsadm\n_arguments -s".to_owned();
    let quoted = |text: &str| {
        let text = text.replace('\'', "'\\''");
        text.replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
    };
    for option in all() {
        let spellings = spellings(option);
        let (value, optional) = match option.value {
            OptionValue::None => ("", ""),
            OptionValue::Required(value) => (value, ":"),
            OptionValue::Optional(value) => (value, "::"),
        };
        let action = match option.completion {
            _ if optional.is_empty() => String::new(),
            Completion::Words(words) => format!("({words})"),
            Completion::Lines(command) => format!("($({command}))"),
            Completion::Files => "_files".to_owned(),
            _ => " ".to_owned(),
        };
        let value = match optional {
            "" => String::new(),
            _ => format!("{optional}{}:{action}", quoted(value)),
        };
        let help = quoted(option.help);
        // A value may be attached: -swrr, --scheduler=wrr.
        let taken: Vec<_> = spellings
            .iter()
            .map(|spelling| match (optional, spelling.starts_with("--")) {
                ("", _) => spelling.clone(),
                (_, true) => format!("{spelling}="),
                (_, false) => format!("{spelling}+"),
            })
            .collect();
        let _ = match &taken[..] {
            [only] => write!(text, " \\\n    '{only}[{help}]{value}'"),
            several => write!(
                text,
                " \\\n    '({})'{{{}}}'[{help}]{value}'",
                spellings.join(" "),
                several.join(",")
            ),
        };
    }
    text.push('\n');
    text
}

fn fish() -> String {
    let mut text = String::new();
    for option in all() {
        text.push_str("complete -c ipvsadm");
        for letter in option.short.chars() {
            let _ = write!(text, " -s {letter}");
        }
        let _ = match (option.value, option.completion) {
            (OptionValue::Required(_), Completion::Words(words)) => {
                write!(text, " -x -a '{words}'")
            }
            (OptionValue::Required(_), Completion::Lines(lines)) => {
                write!(text, " -x -a '({lines})'")
            }
            (OptionValue::Required(_), Completion::Files) => write!(text, " -r -F"),
            (OptionValue::Required(_), _) => write!(text, " -x"),
            (OptionValue::None | OptionValue::Optional(_), _) => write!(text, " -f"),
        };
        let help = option.help.replace('\\', "\\\\").replace('\'', "\\'");
        let _ = writeln!(text, " -l {} -d '{help}'", option.long);
    }
    text
}
