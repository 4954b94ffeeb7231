//! What a runner sends to the guest's init while the command runs: standard input, and changes of the
//! terminal. A serial line has no end-of-file of its own: hanging it up would lose what was not read yet.

/// A message from the runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Bytes of standard input.
    Data(Vec<u8>),
    /// Standard input is at its end.
    End,
    /// The terminal's size.
    Size(Size),
    /// The stopped command continues.
    Continue,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// Takes messages out of bytes as they arrive.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
}

/// A kind, and a length (little endian).
const HEADER: usize = 3;
const DATA: u8 = b'd';
const END: u8 = b'e';
const SIZE: u8 = b's';
const CONTINUE: u8 = b'c';

impl Message {
    /// The message as it is sent. Data must not be longer than 65,535 bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (kind, payload) = match self {
            Self::Data(data) => (DATA, data.clone()),
            Self::End => (END, Vec::new()),
            Self::Size(Size { rows, columns }) => {
                (SIZE, [rows.to_le_bytes(), columns.to_le_bytes()].concat())
            }
            Self::Continue => (CONTINUE, Vec::new()),
        };
        let mut bytes = vec![kind];
        bytes.extend((payload.len() as u16).to_le_bytes());
        bytes.extend(payload);
        bytes
    }
}

impl Decoder {
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The next complete message. Skips messages of an unknown kind.
    pub(crate) fn next(&mut self) -> Option<Message> {
        loop {
            let &[kind, low, high] = self.bytes.first_chunk::<HEADER>()?;
            let end = HEADER + usize::from(u16::from_le_bytes([low, high]));
            let payload = self.bytes.get(HEADER..end)?;
            let message = match (kind, payload) {
                (DATA, data) => Some(Message::Data(data.to_vec())),
                (END, _) => Some(Message::End),
                (SIZE, &[a, b, c, d]) => Some(Message::Size(Size {
                    rows: u16::from_le_bytes([a, b]),
                    columns: u16::from_le_bytes([c, d]),
                })),
                (CONTINUE, _) => Some(Message::Continue),
                _ => None,
            };
            self.bytes.drain(..end);
            if message.is_some() {
                return message;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_apart_wherever_they_are_cut() {
        let messages = [
            Message::Data(b"abc".to_vec()),
            Message::Size(Size { rows: 24, columns: 300 }),
            Message::Data(vec![b'x'; 257]),
            Message::Continue,
            Message::Data(b"\0".to_vec()),
            Message::End,
        ];
        let line: Vec<u8> = messages.iter().flat_map(Message::to_bytes).collect();
        for length in 1..=line.len() {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for cut in line.chunks(length) {
                decoder.take(cut);
                found.extend(std::iter::from_fn(|| decoder.next()));
            }
            assert_eq!(found, messages);
        }
    }
}
