//! keepalived's files: lines with words, and blocks of lines.

use std::collections::BTreeMap;

use super::Notes;

/// Blocks are not nested deeper.
const DEEPEST: usize = 16;

/// A line with its words, and the block behind it.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) line: usize,
    pub(super) words: Vec<String>,
    pub(super) children: Vec<Self>,
}

impl Block {
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub(super) fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    pub(super) fn shown(&self) -> String {
        self.words.join(" ")
    }
}

/// Lines with words and blocks. Comments begin with `#` or `!`.
pub(super) fn parse(text: &str, notes: &mut Notes) -> Vec<Block> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut stack: Vec<Block> = vec![Block::default()];
    let mut lines = text.lines().enumerate();
    while let Some((number, first)) = lines.next() {
        let number = number + 1;
        let mut line = first.to_owned();
        while line.ends_with('\\') {
            line.pop();
            let Some((_, more)) = lines.next() else { break };
            line.push_str(more);
        }
        let mut words = words(&line);
        if let Some((name, value)) =
            words.first().and_then(|word| word.strip_prefix('$')?.split_once('='))
        {
            let value = [&[value.to_owned()], &words[1..]].concat().join(" ");
            variables.insert(name.to_owned(), value);
            continue;
        }
        for word in &mut words {
            // Once: a variable in a variable is not followed.
            if word.contains('$') {
                *word = substituted(word, &variables);
            }
        }
        let begins = |with: char| words.first().is_some_and(|word| word.starts_with(with));
        if begins('@')
            || begins('~')
            || words.first().is_some_and(|word| word.starts_with("include"))
        {
            notes.add(number, format!("{}: not followed", words.join(" ")));
            continue;
        }
        let mut block = Block { line: number, ..Block::default() };
        for word in words {
            match word.as_str() {
                "{" => {
                    if block.words.is_empty() {
                        // On a line of its own: it belongs to the line before.
                        let last = stack.last_mut().and_then(|top| top.children.pop());
                        block = last.unwrap_or(block);
                    }
                    if stack.len() > DEEPEST {
                        notes.add(number, "blocks are nested too deeply: the rest is not read");
                        return close(stack, notes);
                    }
                    stack.push(std::mem::take(&mut block));
                    block.line = number;
                }
                "}" => {
                    push(&mut stack, &mut block, number);
                    if stack.len() > 1 {
                        if let Some(done) = stack.pop() {
                            push_done(&mut stack, done);
                        }
                    } else {
                        notes.add(number, "a } without its {");
                    }
                }
                _ => block.words.push(word),
            }
        }
        push(&mut stack, &mut block, number);
    }
    close(stack, notes)
}

fn push(stack: &mut [Block], block: &mut Block, number: usize) {
    if !block.words.is_empty() {
        let done = std::mem::take(block);
        push_done(stack, done);
    }
    block.line = number;
}

fn push_done(stack: &mut [Block], done: Block) {
    if let Some(top) = stack.last_mut() {
        top.children.push(done);
    }
}

fn close(mut stack: Vec<Block>, notes: &mut Notes) -> Vec<Block> {
    while stack.len() > 1 {
        if let Some(open) = stack.pop() {
            notes.add(open.line, format!("{} has no end", open.shown()));
            push_done(&mut stack, open);
        }
    }
    stack.pop().unwrap_or_default().children
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for char in line.chars() {
        match (quote, char) {
            (Some(end), char) if char == end => quote = None,
            (Some(_), char) => word.get_or_insert_default().push(char),
            (None, '"') => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            // A comment begins a word.
            (None, '#' | '!') if word.is_none() => break,
            (None, char) if char.is_whitespace() => words.extend(word.take()),
            (None, '{' | '}') => {
                words.extend(word.take());
                words.push(char.to_string());
            }
            (None, char) => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

fn substituted(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut result = word.to_owned();
    for (name, value) in variables.iter().rev() {
        result = result.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
        if result.len() > 10_000 {
            break;
        }
    }
    result
}
