//! What the strip looks like in terminals of different widths.

use super::*;

fn layer(layer: usize, n_experts: usize, chosen: &[(u32, f32)]) -> LayerRoute {
    let (experts, weights) = chosen.iter().copied().unzip();
    LayerRoute { layer, n_experts, experts, weights }
}

fn routes(layers: usize, n_experts: usize, k: u32) -> Vec<LayerRoute> {
    let chosen: Vec<(u32, f32)> = (0..k).map(|e| (e * 7 % n_experts as u32, 1.0 / k as f32)).collect();
    (0..layers).map(|l| layer(l, n_experts, &chosen)).collect()
}

fn draw(width: Option<usize>, color: bool, routes: &[LayerRoute]) -> String {
    let mut strip = RouteStrip::new(width, color, false);
    let text = strip.line(" there", routes);
    let plain = anstream::adapter::strip_str(&text).to_string();
    for line in plain.lines().skip(1) {
        assert!(measure_text_width(line) <= width.unwrap_or(usize::MAX), "`{line}` is too wide");
    }
    plain
}

fn detail(width: usize, color: bool, routes: &[LayerRoute]) -> Layout {
    RouteStrip::new(Some(width), color, false).layout(routes)
}

#[test]
fn experts_stand_by_weight_with_their_weights() {
    let routes = [layer(0, 8, &[(3, 0.39), (7, 0.61)]), layer(2, 8, &[(0, 1.25), (1, 1.25)])];
    let expected = "\
expert·weight by layer (2 of 8), heaviest first
token        L0            L2
␣there       7·.61 3·.39 │ 0·1.2 1·1.2";
    assert_eq!(draw(Some(80), false, &routes), expected);
}

#[test]
fn what_fits_the_terminal_is_shown() {
    let small = routes(4, 16, 2);
    assert_eq!(detail(80, true, &small).detail, Detail::Weights);
    assert_eq!(detail(60, true, &small).detail, Detail::Experts);
    let olmoe = routes(16, 64, 8);
    assert_eq!(detail(80, true, &olmoe).detail, Detail::Strongest);
    let qwen = routes(48, 128, 8);
    assert_eq!((detail(80, true, &qwen).detail, detail(80, true, &qwen).wrapped), (Detail::Bar, false));
    assert_eq!(
        (detail(80, false, &qwen).detail, detail(80, false, &qwen).wrapped),
        (Detail::Strongest, true)
    );
    for routes in [small, olmoe, qwen] {
        for width in [24, 40, 80, 160, 1000] {
            for color in [false, true] {
                draw(Some(width), color, &routes);
            }
        }
    }
}

#[test]
fn a_file_gets_everything() {
    let text = draw(None, false, &routes(48, 128, 8));
    assert_eq!(text.lines().count(), 3);
    assert_eq!(text.matches('·').count(), 48 * 8 + 1);
}

#[test]
fn a_model_without_routers_says_so() {
    assert_eq!(draw(Some(80), true, &[]), "This model has no routers.\ntoken\n␣there      ");
}

#[test]
fn long_and_wild_tokens_keep_their_columns() {
    for token in ["", " a_very_long_token_indeed", "语语语语语语语语", "\u{1b}[2J", "\n"] {
        assert_eq!(measure_text_width(&token_cell(token)), TOKEN_WIDTH, "{token:?}");
    }
}

#[test]
fn weights_take_three_columns() {
    let texts = [0.0, 0.614, 0.999, 1.0, 9.96, 12.3, -0.5, f32::NAN].map(short);
    assert_eq!(texts, [".00", ".61", "1.0", "1.0", " 10", " 12", " -0", "NaN"]);
}
