//! Dates for chat templates: the `strftime_now` of transformers, in UTC.
//!
//! Days since 1970-01-01 become a date by the proleptic Gregorian calendar, counted in eras of 400 years
//! that begin on 1 March, so that a leap day is the last day of its year.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const SECONDS_PER_DAY: u64 = 86_400;

/// `time` in the `format` of C's `strftime`, in UTC and in English; the zone has no name, as a naive time in Python.
///
/// Directives that are not known stay as they are. A time before 1970 reads as the start of it.
pub(super) fn strftime(time: SystemTime, format: &str) -> String {
    Moment::new(time.duration_since(UNIX_EPOCH).unwrap_or_default()).print(format)
}

struct Moment {
    year: u64,
    /// 1 to 12.
    month: usize,
    day: u64,
    /// 1 to 366.
    day_of_year: u64,
    /// 0 is Sunday.
    weekday: usize,
    second_of_day: u64,
    since_1970: Duration,
}

impl Moment {
    fn new(since_1970: Duration) -> Self {
        let seconds = since_1970.as_secs();
        let days = seconds / SECONDS_PER_DAY;
        let since_march_0000 = days + 719_468;
        let era = since_march_0000 / 146_097;
        let day_of_era = since_march_0000 % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
        let january_or_february = month_from_march >= 10;
        let year = era * 400 + year_of_era + u64::from(january_or_february);
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let day_of_year =
            if january_or_february { day_from_march - 305 } else { day_from_march + 60 + u64::from(leap) };
        let month = if january_or_february { month_from_march - 9 } else { month_from_march + 3 };
        Self {
            year,
            month: month as usize,
            day,
            day_of_year,
            weekday: ((days + 4) % 7) as usize, // 1970-01-01 was a Thursday
            second_of_day: seconds % SECONDS_PER_DAY,
            since_1970,
        }
    }

    fn print(&self, format: &str) -> String {
        let mut text = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                text.push(letter);
                continue;
            }
            // `%-d` is the directive without its padding.
            let mut directive = letters.next();
            let bare = directive == Some('-');
            if bare {
                directive = letters.next();
            }
            match directive.and_then(|directive| self.field(directive)) {
                Some(field) if bare && field.len() > 1 => text.push_str(strip_zeros(&field)),
                Some(field) => text.push_str(&field),
                None => {
                    text.push('%');
                    text.extend(bare.then_some('-'));
                    text.extend(directive);
                }
            }
        }
        text
    }

    /// 1 is Monday.
    fn iso_weekday(&self) -> u64 {
        (self.weekday as u64 + 6) % 7 + 1
    }

    /// Year and week of ISO 8601: a week belongs to the year that has its Thursday.
    fn iso_week(&self) -> (u64, u64) {
        match (self.day_of_year + 10 - self.iso_weekday()) / 7 {
            0 => (self.year - 1, iso_weeks(self.year - 1)),
            week if week > iso_weeks(self.year) => (self.year + 1, 1),
            week => (self.year, week),
        }
    }

    fn field(&self, directive: char) -> Option<String> {
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month),
            'B' => MONTHS[self.month - 1].to_owned(),
            'b' | 'h' => MONTHS[self.month - 1][..3].to_owned(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'A' => WEEKDAYS[self.weekday].to_owned(),
            'a' => WEEKDAYS[self.weekday][..3].to_owned(),
            'w' => self.weekday.to_string(),
            'u' => self.iso_weekday().to_string(),
            'U' => format!("{:02}", (self.day_of_year + 6 - self.weekday as u64) / 7),
            'W' => format!("{:02}", (self.day_of_year + 7 - self.iso_weekday()) / 7),
            'V' => format!("{:02}", self.iso_week().1),
            'G' => self.iso_week().0.to_string(),
            'g' => format!("{:02}", self.iso_week().0 % 100),
            'C' => format!("{:02}", self.year / 100),
            'H' => format!("{hour:02}"),
            'k' => format!("{hour:2}"),
            'I' => format!("{:02}", (hour + 11) % 12 + 1),
            'l' => format!("{:2}", (hour + 11) % 12 + 1),
            'M' => format!("{minute:02}"),
            'S' => format!("{:02}", self.second_of_day % 60),
            'f' => format!("{:06}", self.since_1970.subsec_micros()),
            's' => self.since_1970.as_secs().to_string(),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'P' => if hour < 12 { "am" } else { "pm" }.to_owned(),
            'c' => self.print("%a %b %e %H:%M:%S %Y"),
            'F' => self.print("%Y-%m-%d"),
            'D' | 'x' => self.print("%m/%d/%y"),
            'R' => self.print("%H:%M"),
            'r' => self.print("%I:%M:%S %p"),
            'T' | 'X' => self.print("%H:%M:%S"),
            'Z' | 'z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

/// Weeks of a year of ISO 8601: 53 where it begins on a Thursday or ends on one.
fn iso_weeks(year: u64) -> u64 {
    let last_day = |year: u64| (year + year / 4 - year / 100 + year / 400) % 7;
    if last_day(year) == 4 || last_day(year - 1) == 3 { 53 } else { 52 }
}

/// The field without the zeros or spaces that pad it; the last digit always stays.
fn strip_zeros(field: &str) -> &str {
    let last = field.len() - 1;
    let padding = field.bytes().take(last).take_while(|byte| matches!(byte, b'0' | b' ')).count();
    &field[padding..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, format: &str, expected: &str) {
        assert_eq!(strftime(UNIX_EPOCH + Duration::from_secs(seconds), format), expected);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        check(0, "%A %d %B %Y %H:%M:%S %j", "Thursday 01 January 1970 00:00:00 001");
        check(951_782_400, "%a %F %j", "Tue 2000-02-29 060"); // a leap day
        check(951_868_800, "%a %F %j", "Wed 2000-03-01 061");
        check(1_709_164_800, "%F %j", "2024-02-29 060");
        check(1_735_603_200, "%F %j", "2024-12-31 366");
        check(1_767_225_599, "%F %T %j %p %I", "2025-12-31 23:59:59 365 PM 11");
        check(4_107_542_400, "%F %j", "2100-03-01 060"); // not a leap year
    }

    #[test]
    fn padding_can_be_left_off_and_the_rest_stays() {
        check(0, "%-d %-m %-H %e|%-e %y", "1 1 0  1|1 70");
        check(1_721_952_000, "%D %x %R %X %U %u", "07/26/24 07/26/24 00:00 00:00:00 29 5");
        check(0, "100%% %Q %-Q %", "100% %Q %-Q %");
    }

    #[test]
    fn weeks_are_counted_from_sundays_from_mondays_and_as_iso_does() {
        check(1_721_952_000, "%U %W %V %G %g", "29 30 30 2024 24");
        check(1_609_459_200, "%F %U %W %V %G", "2021-01-01 00 00 53 2020");
        check(1_735_516_800, "%F %U %W %V %G", "2024-12-30 52 53 01 2025");
        check(1_230_768_000, "%F %a %V %G", "2009-01-01 Thu 01 2009");
        check(1_262_304_000, "%F %a %V %G", "2010-01-01 Fri 53 2009");
    }

    #[test]
    fn whole_dates_and_times_of_day_have_directives_of_their_own() {
        check(1_721_952_000, "%c|%r|%Z%z|%C", "Fri Jul 26 00:00:00 2024|12:00:00 AM||20");
        check(47_109, "%k|%l|%P|%s|%f|%n%t", "13| 1|pm|47109|000000|\n\t");
    }
}
