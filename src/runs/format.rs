//! Times, durations, shares and large numbers in a readable form.

use chrono::{DateTime, Datelike, Timelike, Utc};

/// A time in seconds since 1970 as date and time of day in UTC.
pub fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0));
    match time {
        Some(time) => {
            let (year, month, day) = (time.year(), time.month(), time.day());
            format!("{year}-{month:02}-{day:02} {:02}:{:02}", time.hour(), time.minute())
        }
        // a time some 260,000 years from now, as a damaged file may hold it
        None => format!("{seconds} s after 1970"),
    }
}

/// A duration in a suitable unit.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

/// A share, such as an accuracy, as a percentage with two decimals.
pub fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

/// A whole number with commas between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_system_clock() {
        // date -u -d @N '+%F %R'
        let cases = [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_868_800, "2000-03-01 00:00"),
            (1_709_208_000, "2024-02-29 12:00"),
            (1_735_689_599, "2024-12-31 23:59"),
            (4_107_542_400, "2100-03-01 00:00"),
            (253_402_300_800, "10000-01-01 00:00"),
            (u64::MAX, "18446744073709551615 s after 1970"),
        ];
        for (seconds, date) in cases {
            assert_eq!(utc(seconds), date, "{seconds}");
        }
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn spans_are_written_in_their_own_unit() {
        assert_eq!([1.25, 99.6, 3_000.0, 9_000.0].map(span), ["1.2 s", "100 s", "50 min", "2.5 h"]);
    }
}
