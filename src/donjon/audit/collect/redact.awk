# SPDX-License-Identifier: Apache-2.0
# Copies files with what is secret in them blanked; a value that is empty stays so, which tells that there is none.
#
#   awk -v folder=TO/ -v bytes=LARGEST -f redact.awk FILE...      (exit code 9: a file is larger)
#
# Blanked, whatever the case of letters:
#   private keys in PEM (the lines between BEGIN and END)
#   hashes of passwords as crypt(3) writes them ($6$..., $y$...), and GRUB's (grub.pbkdf2...)
#   the password in a URL with user:password@ or user%password@, and a token@ of 20 letters or more
#   values of settings whose name ends in one of `names`, as
#     NAME = VALUE, NAME: VALUE, "NAME": "VALUE"     INI, YAML, JSON, attributes of XML, options of commands
#     <NAME>VALUE</NAME>   (NAME VALUE)   --NAME VALUE
#     :key=VALUE                                     the key of Ceph in the name of an image
#     NAME VALUE at the start of a line (files only: lists of packages would look like that, too)
# Not blanked: yes, no, true, false, on, off, none, null; paths of key files; what PAM, sudo and nsswitch mean by passwd.
# Works with gawk 3, mawk 1.3.3 and busybox: no intervals, no classes, no apostrophe.
BEGIN {
    MARK = "[blanked]"
    quote = "[\\\\]*[\"\047]?"
    names = "[a-z0-9_.-]*(pass|passw|passwd|password|passwort|passphrase|pwd|bindpw|rootpw|bind_pw|secret|token" \
        "|authtok|psk|pin|apikey|api[_-]key|auth[_-]?key|access[_-]?key|private[_-]?key|preshared[_-]?key" \
        "|pre[_-]shared[_-]key|shared[_-]?key|secret[_-]?key|encryption[_-]?key|credential|credentials|community" \
        "|authorization|cookie)([_-]?(in|old|new|[0-9]+))?"
    setting = names quote "[ \t]*[+:]?[=:][ \t]*"
    element = "<" names "([ \t][^>]*)?>"
    list = "[(]" names "[ \t]+"
    option = "(^|[ \t\"\047])--?" names "[ \t]+"
    word = "^[ \t#;]*" names "[ \t]+"
    key = "^[ \t#;]*key[ \t]*=[ \t]*"
    hint = "pass|pwd|pw|secret|token|authtok|psk|pin|key|credential|community|authorization|cookie"
    data = "[,\"]data\"?[=:][ \t]*"
    of_hash = "[./A-Za-z0-9$=,_-]"
    of_hash = of_hash of_hash of_hash of_hash
    hash = "[$](1|2|2[abxy]|5|6|7|y|gy|apr1|md5|sha1)[$]" of_hash of_hash "[^:\"\047 \t,<]*"
    for (i = 1; i < ARGC; i++) {
        printf "" > (folder ARGV[i])
        close(folder ARGV[i])
    }
}

FNR == 1 {
    if (out != "") close(out)
    out = folder FILENAME
    size = 0
    private = 0
    is_file = substr(FILENAME, 1, 1) == "/"
    speaks_of_passwd = FILENAME ~ /nsswitch|sudoers|\/pam/
}

{
    size += length($0) + 1
    if (size > bytes) exit 9
    if (private) {
        if ($0 !~ /-----END [A-Z0-9 ]*PRIVATE KEY/) next
        private = 0
        print > out
        next
    }
    line = $0
    if (line ~ /-----BEGIN [A-Z0-9 ]*PRIVATE KEY/) line = private_key(line)
    if (index(line, "$")) gsub(hash, MARK, line)
    if (index(line, "grub.pbkdf2")) gsub(/grub\.pbkdf2\.[^ \t"\047]*/, "grub.pbkdf2." MARK, line)
    if (index(line, "://")) line = addresses(line)
    if (tolower(line) ~ hint) line = settings(line)
    print line > out
}

function private_key(line,   begin, after) {
    match(line, /-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-*/)
    begin = substr(line, 1, RSTART + RLENGTH - 1)
    after = substr(line, RSTART + RLENGTH)
    if (match(after, /-----END [A-Z0-9 ]*PRIVATE KEY/)) return begin MARK private_keys_after(substr(after, RSTART))
    private = 1
    return begin MARK
}

function private_keys_after(line) {
    return line ~ /-----BEGIN [A-Z0-9 ]*PRIVATE KEY/ ? private_key(line) : line
}

function addresses(line,   done, found, colon) {
    done = ""
    while (match(line, /:\/\/[^\/ \t"\047<>]+@/)) {
        found = substr(line, RSTART, RLENGTH)
        done = done substr(line, 1, RSTART - 1)
        line = substr(line, RSTART + RLENGTH)
        colon = match(substr(found, 4), /[:%]/) ? RSTART + 3 : 3
        if (colon == 3 && length(found) < 24) done = done found
        else done = done substr(found, 1, colon) MARK "@"
    }
    return done line
}

function settings(line) {
    line = blank(line, setting, "setting")
    if (index(line, "<")) line = blank(line, element, "element")
    if (index(line, "(")) line = blank(line, list, "list")
    if (index(line, "-")) line = blank(line, option, "option")
    if (index(line, ":key=")) line = blank(line, ":key=", "colon")
    if (tolower(line) ~ /secret/) line = blank(line, data, "part")
    if (is_file) {
        if (!pam(line)) line = blank(line, word, "rest")
    }
    return blank(line, key, "setting")
}

function pam(line) {
    return speaks_of_passwd || line ~ /^[ \t#]*-?password[ \t]+(\[|required|requisite|sufficient|optional|include|substack)/
}

# The line with the values of all that match the pattern blanked.
function blank(line, pattern, kind,   done, name, before) {
    done = ""
    while (match(tolower(line), pattern)) {
        name = tolower(substr(line, RSTART, RLENGTH))
        before = done substr(line, 1, RSTART - 1)
        done = done substr(line, 1, RSTART + RLENGTH - 1)
        line = substr(line, RSTART + RLENGTH)
        if (keeps(name, line) || (kind == "rest" && line ~ /^["\047]?([=:]|\[blanked\])/)) continue
        measure(kind, name, line, done, before ~ /^[ \t#;"\047-]*(export[ \t]+)?$/)
        if (length_ <= 0) continue
        done = done substr(line, 1, start_) MARK
        line = substr(line, start_ + length_ + 1)
        if (pattern ~ /^\^/) break
    }
    return done line
}

# Is this no secret, although its name sounds like one?
function keeps(name, value,   end, plain) {
    end = name
    sub(/[\\"\047 \t]*[+:]?[=:][ \t]*$/, "", end)
    if (end ~ /(nopasswd|bypass|loadcredential|importcredential|spin)$/) return 1
    if (speaks_of_passwd && name !~ /=[ \t]*$/) return 1
    if (value ~ /^["\047]?[(]set[)]/) return 1
    plain = tolower(value)
    sub(/[ \t\r,;>].*$/, "", plain)
    if (plain ~ /^(yes|no|true|false|on|off|none|null|files|compat|sss)$/) return 1
    if (plain ~ /^[[{]$/ || value ~ /^[[{][]["\047{} \t]/) return 1
    return end ~ /key$/ && value ~ /^["\047]?\/(etc|var|run|root|home|usr|opt|srv|tmp|boot|OVS|u01)\//
}

# Where a value begins and how long it is, in start_ and length_.
function measure(kind, name, value, before, first,   mark, at, char) {
    start_ = 0
    length_ = 0
    if (value ~ /^["\047]([],) \t}>;]|$)/ && within(before, substr(value, 1, 1))) return
    if (match(value, /^[\\]*["\047]/)) {
        start_ = RLENGTH
        mark = substr(value, RLENGTH, 1)
        for (at = start_ + 1; at <= length(value); at++) {
            char = substr(value, at, 1)
            if (char == mark) break
            if (char == "\\" && !(name ~ /=$/ && FNR > 0 && $0 ~ /^[ \t]*</)) at++
        }
        length_ = at - start_ - 1
        if (at > length(value)) length_ = length(value) - start_
        return
    }
    if (kind == "element") length_ = until(value, "[<]")
    else if (kind == "list") length_ = until(value, "[ \t)]")
    else if (kind == "colon") length_ = until(value, "[: \t,\"\047<]")
    else if (kind == "rest") length_ = length(value)
    else if (name ~ /authorization|cookie/) length_ = until(value, "[\"\047]")
    else if (kind == "option") length_ = until(value, "[ \t\"\047]")
    else if (kind == "setting" && first && name !~ /["\047]/) length_ = length(value)
    else length_ = until(value, "[ \t,\"\047&]")
}

# Is a string open at the end of the text that begins and ends with this mark?
function within(text, mark) {
    return gsub(mark, "", text) % 2
}

function until(value, ends) {
    return match(value, ends) ? RSTART - 1 : length(value)
}
