//! Whatever a server says and then closes, a check of it ends.

use proptest::prelude::*;
use tokio::runtime::Builder;

use super::*;

/// HTTP/2 frames: settings and their acknowledgement, a ping, a farewell, the beginning of headers.
const FRAMES: [&[u8]; 5] = [
    b"\0\0\0\x04\0\0\0\0\0",
    b"\0\0\0\x04\x01\0\0\0\0",
    b"\0\0\x08\x06\0\0\0\0\0abcdefgh",
    b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\0\0\x05\x01\x04\0\0\0\x01\x88",
];

/// What ends with the server's words, without a time-out.
fn ends(kind: &Kind, bytes: &[u8]) {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let said = runtime.block_on(async {
        // Far more than it takes: it is not this that ends it.
        timeout(LONG, said(kind, bytes)).await
    });
    assert!(said.is_ok(), "{kind:?} waits after {bytes:x?}");
}

fn kinds() -> [Kind; 3] {
    let http2 = Http { http2: true, ..Http::default() };
    [Kind::Grpc(Grpc::default()), Kind::Http(http2), Kind::Http(Http::default())]
}

#[test]
fn a_server_that_closes_ends_the_check() {
    for kind in kinds() {
        ends(&kind, b"");
        for first in FRAMES {
            ends(&kind, first);
            for second in FRAMES {
                ends(&kind, &[first, second].concat());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_words_end_the_check(
        frames in proptest::collection::vec(0..FRAMES.len(), 0..4),
        rest in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes: Vec<u8> = frames.into_iter().flat_map(|it| FRAMES[it].to_vec()).collect();
        bytes.extend(rest);
        for kind in kinds() {
            ends(&kind, &bytes);
        }
    }
}
