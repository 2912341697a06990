//! Numbers for people: three significant digits, a decimal prefix, and n/a for what is not known.

/// What an unknown number prints as.
pub const UNKNOWN: &str = "n/a";

const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// A number with a decimal prefix and a unit (which may be empty), such as `1.23 GB` or `4.5 G`.
///
/// Three significant digits, trailing zeros dropped; `None` and what is not finite are [`UNKNOWN`].
///
/// ```
/// use moebius_metering::format::si;
/// assert_eq!(si(Some(1.234e9), "B"), "1.23 GB");
/// assert_eq!(si(Some(4.5e9), ""), "4.5 G");
/// assert_eq!(si(Some(31.0), "tok/s"), "31 tok/s");
/// assert_eq!(si(None, "W"), "n/a");
/// ```
pub fn si(value: Option<f64>, unit: &str) -> String {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return UNKNOWN.to_owned();
    };
    let mut scaled = value;
    let mut prefix = 0;
    // From 999.5 on three digits read as 1000, which belongs to the next prefix.
    while scaled.abs() >= 999.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1_000.0;
        prefix += 1;
    }
    let unit = format!("{}{unit}", PREFIXES[prefix]);
    let separator = if unit.is_empty() { "" } else { " " };
    format!("{}{separator}{unit}", three_digits(scaled))
}

/// A share of one as a percentage, such as `87.5 %`, or [`UNKNOWN`].
///
/// ```
/// use moebius_metering::format::percent;
/// assert_eq!(percent(Some(0.875)), "87.5 %");
/// assert_eq!(percent(None), "n/a");
/// ```
pub fn percent(share: Option<f64>) -> String {
    match share.filter(|share| share.is_finite()) {
        Some(share) => format!("{} %", three_digits(100.0 * share)),
        None => UNKNOWN.to_owned(),
    }
}

/// Up to three significant digits without trailing zeros; from 1000 on all digits of the whole part.
fn three_digits(value: f64) -> String {
    // Enough for three digits of anything that a person reads as a decimal fraction; below that it is zero.
    const MAX_DECIMALS: i32 = 9;
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = (2 - value.abs().log10().floor() as i32).clamp(0, MAX_DECIMALS) as usize;
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    if text == "-0" { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(value: f64, expected: &str) {
        assert_eq!(si(Some(value), "B"), expected, "{value}");
    }

    #[test]
    fn numbers_have_three_significant_digits() {
        check(0.0, "0 B");
        check(1.0, "1 B");
        check(12.34, "12.3 B");
        check(123.4, "123 B");
        check(1_234.0, "1.23 kB");
        check(-1_234.0, "-1.23 kB");
        check(0.012345, "0.0123 B");
    }

    #[test]
    fn rounding_up_moves_on_to_the_next_prefix() {
        check(999.4, "999 B");
        check(999.5, "1 kB");
        check(999_499.0, "999 kB");
        check(999_600.0, "1 MB");
    }

    #[test]
    fn numbers_beyond_the_last_prefix_keep_their_digits() {
        check(1.5e21, "1500 EB");
        check(u64::MAX as f64, "18.4 EB");
    }

    #[test]
    fn numbers_too_small_to_read_are_zero() {
        check(1e-12, "0 B");
        check(-1e-12, "0 B");
    }

    #[test]
    fn a_bare_number_has_no_trailing_space() {
        assert_eq!(si(Some(64.0), ""), "64");
    }

    #[test]
    fn what_is_not_finite_is_unknown() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(si(Some(value), "B"), UNKNOWN);
            assert_eq!(percent(Some(value)), UNKNOWN);
        }
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(percent(Some(0.0)), "0 %");
        assert_eq!(percent(Some(1.0)), "100 %");
        assert_eq!(percent(Some(0.06251)), "6.25 %");
        assert_eq!(percent(Some(-0.5)), "-50 %");
    }

    proptest! {
        #[test]
        fn the_text_is_within_half_a_unit_of_the_third_digit(value in 1.0f64..1e18) {
            let text = si(Some(value), "");
            let (digits, prefix) = text.split_once(' ').unwrap_or((text.as_str(), ""));
            let power = PREFIXES.iter().position(|known| *known == prefix).expect("a known prefix");
            let read = digits.parse::<f64>().expect("a number") * 1_000f64.powi(power as i32);
            prop_assert!((read - value).abs() <= 0.005001 * value, "{} reads as {}", value, read);
        }
    }
}
