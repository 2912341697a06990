//! Colours for experts, from the 256 that terminals have.
//!
//! Maths: expert `e` has hue `137.5° · e`, so that neighbours differ and no two of a few dozen are alike;
//! its weight sets the value. The colour is the nearest of the 6 x 6 x 6 cube, at `16 + 36 r + 6 g + b`.

use anstyle::{Ansi256Color, Style};

/// The golden angle as a part of the circle.
const GOLDEN: f32 = 0.381_966;
/// Brightness of an expert that hardly counts.
const DARKEST: f32 = 0.35;
/// Black and white of the cube, which unlike the first sixteen no theme changes.
const BLACK: Ansi256Color = Ansi256Color(16);
const WHITE: Ansi256Color = Ansi256Color(231);

/// Bars from low to high.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `text` on the expert's colour, as bright as `intensity`, from 0 to 1.
pub(super) fn swatch(expert: u32, intensity: f32, text: &str) -> String {
    let cube = cube(expert, DARKEST + (1.0 - DARKEST) * intensity);
    let text_color = if luminance(cube) > 0.4 { BLACK } else { WHITE };
    let style = Style::new().bg_color(Some(index(cube).into())).fg_color(Some(text_color.into()));
    format!("{style}{text}{style:#}")
}

/// A bar of the expert's colour, as high as `share`, from 0 to 1.
pub(super) fn bar(expert: u32, share: f32) -> String {
    let level = (share * BARS.len() as f32) as usize;
    let style = Style::new().fg_color(Some(index(cube(expert, 0.95)).into()));
    format!("{style}{}{style:#}", BARS[level.min(BARS.len() - 1)])
}

/// Red, green and blue from 0 to 5.
fn cube(expert: u32, value: f32) -> [u8; 3] {
    let hue = (expert as f32 * GOLDEN).fract() * 6.0;
    // Every third hue comes in a paler shade, which tells more experts apart.
    let saturation = if expert % 3 == 2 { 0.5 } else { 0.85 };
    let channel = |offset: f32| {
        let position = (offset + hue) % 6.0;
        let fall = position.min(4.0 - position).clamp(0.0, 1.0);
        (5.0 * value * (1.0 - saturation * fall)).round() as u8
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

fn index([red, green, blue]: [u8; 3]) -> Ansi256Color {
    Ansi256Color(16 + 36 * red + 6 * green + blue)
}

/// From 0 to 1, by the weights of ITU-R BT.709.
fn luminance([red, green, blue]: [u8; 3]) -> f32 {
    (0.2126 * f32::from(red) + 0.7152 * f32::from(green) + 0.0722 * f32::from(blue)) / 5.0
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_first_experts_have_colours_of_their_own() {
        let colors: HashSet<[u8; 3]> = (0..16).map(|expert| cube(expert, 1.0)).collect();
        assert!(colors.len() >= 14, "{} colours for 16 experts", colors.len());
    }

    #[test]
    fn every_colour_is_inside_the_cube() {
        for expert in (0..600).chain([u32::MAX]) {
            for value in [DARKEST, 1.0] {
                assert!(cube(expert, value).iter().all(|&channel| channel <= 5));
            }
        }
    }

    #[test]
    fn heavier_is_brighter_and_higher() {
        assert!(luminance(cube(3, 1.0)) > luminance(cube(3, DARKEST)));
        assert!(bar(0, 0.05).contains('▁') && bar(0, 1.0).contains('█'));
    }
}
