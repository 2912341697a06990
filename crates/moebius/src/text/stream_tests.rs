//! Tests of the streaming decoder, against the tokenizers crate decoding all ids at once.

use proptest::prelude::*;
use serde_json::Value;

use super::super::samples::*;
use super::*;

fn pieces(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut stream = tokenizer.stream(skip_special);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap_or_default()).collect();
    assert!(stream.waiting.len() <= 3);
    pieces.push(stream.finish());
    pieces
}

/// Both ways of decoding give `expected`, which is also what the tokenizers crate gives.
#[track_caller]
fn check(json: &Value, ids: &[u32], expected: &[&str]) {
    let tokenizer = build(json);
    assert_eq!(pieces(&tokenizer, ids, true), expected);
    assert_eq!(tokenizer.decode(ids, true), expected.concat());
    assert_eq!(reference(json, ids, true), expected.concat());
}

/// Ids of single bytes in [`fallback_json`].
fn bytes(bytes: &[u8]) -> Vec<u32> {
    bytes.iter().map(|&byte| 3 + u32::from(byte)).collect()
}

#[test]
fn a_character_comes_out_once_it_is_whole() {
    let json = byte_level_json();
    let tokenizer = build(&json);
    let ids = tokenizer.encode("aあい😀", false).unwrap();
    let id = |piece: &str| tokenizer.token_id(piece).unwrap();
    assert_eq!(ids, [id("a"), id("ãģĤ"), id("ãģ"), id("Ħ"), id("ðŁĺ"), id("Ģ")]);
    check(&json, &ids, &["a", "あ", "", "い", "", "😀", ""]);
    check(&json, &ids[..5], &["a", "あ", "", "い", "", "\u{fffd}"]);

    let ids = bytes("é日".as_bytes());
    check(&fallback_json(), &ids, &["", "é", "", "", "日", ""]);
}

#[test]
fn bytes_that_are_no_character_come_out_as_soon_as_that_is_known() {
    let json = byte_level_json();
    let tokenizer = build(&json);
    let ids: Vec<u32> =
        ["ã", "ģ", "ã", "Ģ", "a", "Ģ", "Ģ"].map(|piece| tokenizer.token_id(piece).unwrap()).into();
    check(&json, &ids, &["", "", "\u{fffd}", "", "\u{fffd}a", "\u{fffd}", "\u{fffd}", ""]);
}

#[test]
fn whole_characters_beside_stray_bytes_are_kept() {
    let ids = bytes(b"\xc3\xa9\x80\xe3\x81");
    assert_eq!(pieces(&build(&fallback_json()), &ids, true), ["", "é", "\u{fffd}", "", "", "\u{fffd}"]);
}

#[test]
fn a_space_is_dropped_at_the_start_of_a_text_only() {
    for json in [fallback_json(), metaspace_json()] {
        let tokenizer = build(&json);
        let word = tokenizer.token_id("▁a").unwrap();
        check(&json, &[1, word, word, 2, word], &["", "a", " a", "", " a", ""]);
        let mut stream = tokenizer.stream(true);
        stream.skip(&[1, word]);
        assert_eq!(stream.push(word).as_deref(), Some(" a"));
    }
    let json = fallback_json();
    let space = build(&json).token_id("▁").unwrap();
    check(&json, &[space, space], &["", " ", ""]);
}

#[test]
fn a_byte_level_space_always_stays() {
    let json = byte_level_json();
    let the = build(&json).token_id("Ġthe").unwrap();
    check(&json, &[the, the], &[" the", " the", ""]);
}

#[test]
fn words_without_a_decoder_are_set_apart() {
    check(&ascii_json(), &[33, 34, 35], &["A", " B", " C", ""]);
    check(&word_piece_json(), &[1, 2, 3, 4], &["un", "able", " do", ".", ""]);
}

#[test]
fn unknown_and_skipped_ids_have_no_text() {
    let json = byte_level_json();
    check(&json, &[5000, 263, 264, u32::MAX, 265], &["", "", "<tool>", "", "日", ""]);
    assert_eq!(build(&json).decode(&[263, 264], false), "<|end|><tool>");
}

#[test]
fn a_character_may_be_split_by_a_skipped_token() {
    let tokenizer = build(&fallback_json());
    let [first, second] = bytes("é".as_bytes())[..] else { unreachable!("two bytes") };
    assert_eq!(pieces(&tokenizer, &[first, 2, second], true), ["", "", "é", ""]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_ids_stream_as_they_decode_at_once(ids in prop::collection::vec(0_u32..270, 0..40), skip in any::<bool>()) {
        let json = byte_level_json();
        let streamed = pieces(&build(&json), &ids, skip).concat();
        prop_assert_eq!(streamed, reference(&json, &ids, skip));
    }

    #[test]
    fn any_pieces_with_bytes_stream_as_their_bytes_read_at_once(ids in prop::collection::vec(0_u32..270, 0..40)) {
        let tokenizer = build(&fallback_json());
        let mut all = Vec::new();
        for &id in &ids {
            let piece = tokenizer.piece(id, true).unwrap_or_default();
            tokenizer.detokenizer().append(piece, false, &mut all);
        }
        let text = String::from_utf8_lossy(&all);
        let expected = text.strip_prefix(' ').unwrap_or(&text);
        prop_assert_eq!(pieces(&tokenizer, &ids, true).concat(), expected);
    }

    #[test]
    fn text_survives_the_way_through_ids(text in "[ab é日😀\u{301}\n]{0,20}") {
        let json = byte_level_json();
        let ids = build(&json).encode(&text, true).unwrap();
        prop_assert_eq!(pieces(&build(&json), &ids, true).concat(), text.as_str());

        let json = fallback_json();
        let tokenizer = build(&json);
        let ids = tokenizer.encode(&text, true).unwrap();
        let streamed = pieces(&tokenizer, &ids, true);
        let half = streamed.iter().any(|piece| piece.contains(char::REPLACEMENT_CHARACTER));
        prop_assert!(!half);
        prop_assert_eq!(streamed.concat(), reference(&json, &ids, true));
    }
}
