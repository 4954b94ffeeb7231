//! Any arguments, one in each line, parse as a command line, or are refused with places inside them. A parsed
//! command line can be printed and parsed again to the same value. A program's own options may be among them.
#![no_main]

use ipvs_table::{Command, CommandOption, Numeric, OptionValue, Place};
use libfuzzer_sys::fuzz_target;

const OWN: &[CommandOption] = &[
    CommandOption::new("json", OptionValue::None, "nothing behind it"),
    CommandOption::new("watch", OptionValue::Optional("SECONDS"), "perhaps something"),
    CommandOption::new("netns", OptionValue::Required("NAME"), "something"),
];

fuzz_target!(|text: &str| {
    let arguments: Vec<&str> = text.split('\n').collect();
    match Command::parse_with(&arguments, OWN, &Numeric) {
        Ok(parsed) => {
            for own in &parsed.own {
                match OWN[own.index].value {
                    OptionValue::None => assert!(own.value.is_none()),
                    OptionValue::Optional(_) => {}
                    OptionValue::Required(_) => assert!(own.value.is_some()),
                }
            }
            let Some(command) = parsed.command else {
                assert!(!parsed.own.is_empty());
                return;
            };
            // A name may contain a line break, but a line here cannot.
            let line = command.to_string();
            if !line.contains(['\n', '\r']) {
                let again = Command::parse_line(&line, &Numeric).expect("what is written is read");
                assert_eq!(again.to_string(), line);
            }
        }
        Err(mistakes) => {
            assert!([2, 255].contains(&mistakes.exit_status()));
            for mistake in &mistakes {
                let Place::Argument { number, offset } = mistake.place() else {
                    panic!("{mistake}");
                };
                assert!((1..=arguments.len() + 1).contains(number), "{mistake}");
                let length = arguments.get(number - 1).map_or(0, |argument| argument.len());
                assert!(*offset <= length, "{mistake}");
            }
        }
    }
});
