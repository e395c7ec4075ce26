"""The fixed parts of the restore script: POSIX shell, for dash and busybox sh as well; and names for it. No I/O."""

from __future__ import annotations

LAST_LINE = "# end of the restore script"
"""A script that was cut off is told by its lack of this line."""


def encoded(name: str) -> str:
    """`name` within single quotes, for the script's `decoded`: what is not printable, and `\\` and `'`, as `\\0ooo`."""
    raw = (c if c.isprintable() and c not in "\\'" else _octal(c) for c in name)
    return f"'{''.join(raw)}'"


def _octal(char: str) -> str:
    return "".join(f"\\0{byte:03o}" for byte in char.encode(errors="surrogateescape"))


def moment(mtime_ns: int) -> str:
    """For `touch -d`: seconds since 1970, a point, nine digits of nanoseconds."""
    seconds, nanoseconds = divmod(abs(mtime_ns), 10**9)
    return f"@{'-' if mtime_ns < 0 else ''}{seconds}.{nanoseconds:09d}"


DECODED = r"""
# Names stand here as printable text; a byte that is not, as \0ooo, which printf %b turns back. The name is in $n then.
decoded() {
    case $1 in
    *\\*) n=$(printf '%bx' "$1") && n=${n%x} ;;
    *) n=$1 ;;
    esac
}

is_there() { [ -e "$1" ] || [ -L "$1" ]; }
"""

START = r"""
KEY=${QDRANT_API_KEY:-${DOCMIND_DATABASE__QDRANT_API_KEY:-}}
KEY_NAME=QDRANT_API_KEY
[ -n "${QDRANT_API_KEY:-}" ] || [ -z "$KEY" ] || KEY_NAME=DOCMIND_DATABASE__QDRANT_API_KEY
unset QDRANT_API_KEY DOCMIND_DATABASE__QDRANT_API_KEY # no other program gets it
mask=$(umask)
umask 077
nl='
'
phase=checking
collections=

say() { printf '%s\n' "$*"; }

stop() { # CODE WORDS
    status=$1
    shift
    printf 'stopped: %s\n' "$*" >&2
    exit "$status"
}

ended() { # CODE: whatever ended the script, say how things stand; undo nothing
    trap - EXIT
    case $phase:$1 in *:0 | over:*) exit "$1" ;; esac
    {
        case $phase in
        checking) say 'nothing was changed' ;;
        copying)
            say 'nothing that was there before was touched. Before another try remove what this one left:'
            leftovers
            rm -f "$OLD/go-back.sh" "$OLD/.sums"
            rmdir "$OLD" || :
            ;;
        swapping)
            say "what was moved aside so far lies in $OLD"
            say "to go back by hand: stop everything, then: sh '$OLD/go-back.sh'"
            say 'copies that are not in their place yet:'
            leftovers
            ;;
        esac
        [ -z "$collections" ] || say "collections that were made on $QDRANT and stay there:$collections"
    } >&2
    exit "$1"
}
trap 'ended $?' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

usage="usage: sh $0 [--yes] [FOLDER OF THE BACKUP]"
yes=no
B=
for word in "$@"; do
    case $word in
    --yes) yes=yes ;;
    -*) stop 2 "$usage" ;;
    *)
        [ -z "$B" ] || stop 2 "$usage"
        B=$word
        ;;
    esac
done
case $B in
'') B=$DEFAULT ;;
/*) ;;
*) B=$PWD/$B ;;
esac

# -- before anything is changed --

if ! [ -f "$0" ] || [ "$(tail -n 1 "$0")" != '# end of the restore script' ]; then
    stop 2 'this script is not whole, or was not run as: sh FILE'
fi
if ! touch -c -d @1.000000002 "$B/none" 2>/dev/null || ! sha256sum --version >/dev/null 2>&1; then
    stop 2 'touch and sha256sum of GNU coreutils are needed: times to the nanosecond, names with line breaks'
fi
"""

CHECKS = r"""
check_backup() { # SHA256 OF SHA256SUMS
    [ -f "$B/SHA256SUMS" ] || stop 10 "no backup in $B: give its folder as an argument"
    say "checking every file of $B"
    printf '%s  SHA256SUMS\n' "$1" | (cd "$B" && sha256sum --quiet -c -) ||
        stop 4 "$B is not the backup that this script was made for"
    (cd "$B" && sha256sum --quiet -c SHA256SUMS) || stop 4 'the backup is damaged'
}

expect() { # folder|file|nothing TARGET: as it was when the script was made, or gone since
    decoded "$2"
    is_there "$n" || return 0
    now='file'
    [ ! -d "$n" ] || now='folder'
    [ ! -L "$n" ] || now='a link'
    if [ "$now" != "$1" ]; then
        say "Move $2 away, or make a new script where the tool is: docmind-backup restore-plan $ID --script" >&2
        stop 17 "the target changed since this script was made: $2 was: $1, is: $now"
    fi
    case $B/ in "$n"/*) stop 17 "the backup lies in $2, which would be moved aside: copy it elsewhere" ;; esac
}

unused() { # FOLDER NUMBER
    decoded "$1"
    ! is_there "$n/.restoring-$ID.$2" || stop 17 "an earlier run left $1/.restoring-$ID.$2: remove it first"
}

room() { # BYTES FOLDER
    decoded "$2"
    while [ ! -d "$n" ]; do
        n=${n%/*}
        n=${n:-/}
    done
    free=$(df -Pk "$n" | sed -n '$s/.* \([0-9][0-9]*\)  *[0-9][0-9]*% .*/\1/p')
    [ -z "$free" ] || [ "$free" -ge "$((($1 + 1023) / 1024))" ] ||
        stop 13 "$1 bytes are needed at $2, $free KiB are free"
}
"""

QDRANT = r"""
# The key goes to curl by its standard input: not in the process list, not in a file.
case $KEY in
*[!!-~]*) stop 2 'QDRANT_API_KEY holds a space, a line break or a character that no header can carry' ;;
'') KEY_LINE= ;;
*)
    KEY_LINE=$(
        sed 's/[\\"]/\\&/g;s/^/header = "api-key: /;s/$/"/' <<END
$KEY
END
    )
    ;;
esac

ask() { # METHOD PATH [CURL'S OPTIONS]: the body of the answer in $answer, its status in $code
    method=$1
    path=$2
    shift 2
    answer=$(
        cd "$B" && curl -q -g -sS --noproxy '*' --connect-timeout 10 --config - -X "$method" -H 'Expect:' \
            -w '\n%{http_code}' "$@" "$QDRANT$path" <<END
$KEY_LINE
END
    ) || stop 15 "Qdrant at $QDRANT does not answer: $method $path"
    code=${answer##*"$nl"}
    answer=${answer%"$nl"*}
}

refused() { # WHAT
    words=$(printf '%s' "$answer" | tr -cd '[:print:]' | cut -c 1-300)
    case $code in 401 | 403) words="$words (set QDRANT_API_KEY to a key that may manage collections)" ;; esac
    stop 15 "$1: Qdrant answered $code: $words"
}

version() { # VERSION
    ask GET /
    case $answer in
    *"\"version\":\"$1\""*) ;;
    *)
        say "Start that version, or make a new script where the tool is: docmind-backup restore-plan $ID --script" >&2
        stop 17 "Qdrant at $QDRANT is not the version $1 that was there when this script was made"
        ;;
    esac
}

by_hand() { # CURL'S ARGUMENTS: a command for a person; the key, by its variable's name, goes to no proxy
    say "    printf 'api-key: %s\\n' \"\$$KEY_NAME\" | curl $1 -H @- -fsS --noproxy '*'"
}

free_name() { # NAME PATH NAME-IN-JSON BODY: neither a collection nor an alias; BODY of the call that removes an alias
    ask GET "$2"
    case $code in
    404) return 0 ;;
    200) ;;
    *) refused "$1" ;;
    esac
    ask GET /aliases
    [ "$code" = 200 ] || refused "the list of aliases"
    decoded "$3"
    say "Qdrant has $1 already, and this script deletes and overwrites nothing there. If it may go:"
    case $answer in
    *'"alias_name":'"$n"*)
        say "it is an alias; the collection that it leads to stays when this removes it:"
        by_hand "-X POST '$QDRANT/collections/aliases' -H 'content-type: application/json' -d '$4'"
        ;;
    *)
        say "it is a collection; save it first, by a snapshot and its download (under the name that the first gives):"
        by_hand "-X POST '$QDRANT$2/snapshots'"
        by_hand "-O '$QDRANT$2/snapshots/NAME'"
        say "then this deletes it:"
        by_hand "-X DELETE '$QDRANT$2'"
        ;;
    esac
    stop 17 "$1 exists"
}

upload() { # NAME PATH FILE SHA256 MIN MAX: made, counted, and the server's copy of the file deleted
    say "uploading $1"
    file=docmind-backup-restore-$stamp-$$.snapshot
    decoded "$3"
    ask POST "$2/snapshots/upload?wait=true&priority=snapshot&checksum=$4" -F "snapshot=@\"$n\";filename=\"$file\""
    [ "$code" = 200 ] || refused "the upload of $1 (its file may lie in the server's snapshots folder as $file)"
    collections="$collections $1"
    ask POST "$2/points/count" -H 'content-type: application/json' -d '{"exact":true}'
    points=$(printf '%s\n' "$answer" | sed -n 's/.*"count":\([0-9][0-9]*\).*/\1/p')
    if [ "$code" != 200 ] || [ -z "$points" ]; then refused "the count of $1"; fi
    ask DELETE "$2/snapshots/$file"
    [ "$code" = 200 ] || refused "deleting the uploaded file $file of $1"
    if [ "$points" -lt "$5" ] || [ "$points" -gt "$6" ]; then
        stop 15 "$1 holds $points points after the upload; the backup's record says $5 to $6"
    fi
}

alias_of() { # NAME BODY
    say "setting the alias $1"
    ask POST /collections/aliases -H 'content-type: application/json' -d "$2"
    [ "$code" = 200 ] || refused "the alias $1"
}
"""

COPIES = r"""
stage() { # NUMBER STORED TARGET: what follows is copied to a place beside TARGET
    say "copying $2"
    decoded "$2"
    from=$B/$n
    decoded "$3"
    folder=${n%/*}
    (umask "$mask" && mkdir -p "$folder/")
    to=$folder/.restoring-$ID.$1
}

d() { decoded "$1" && mkdir -p "$to$n"; } # a folder: NAME

f() { # a file: MODE TIME NAME
    decoded "$3"
    cp "$from$n" "$to$n"
    touch -c -d "$2" "$to$n"
    chmod "$1" "$to$n"
}

l() { # a link, never followed, made after all files: TIME NAME TARGET
    decoded "$3"
    points_to=$n
    decoded "$2"
    ! is_there "$to$n" || stop 4 "the inventory names $2 twice"
    ln -s -- "$points_to" "$to$n"
    touch -c -h -d "$1" "$to$n"
}

a() { # a folder that is full now: MODE TIME NAME
    decoded "$3"
    touch -c -d "$2" "$to$n"
    chmod "$1" "$to$n"
}

same() { # FILES SED'S OPTIONS: the copies hold what SHA256SUMS says
    files=$1
    shift
    sed -n "$@" "$B/SHA256SUMS" >"$OLD/.sums"
    [ "$(wc -l <"$OLD/.sums")" -eq "$files" ] || stop 4 "SHA256SUMS does not name $files files of $from"
    [ "$files" -eq 0 ] || (cd "$folder/" && sha256sum --quiet -c "$OLD/.sums") ||
        stop 4 "a copy of $from is not what the backup holds"
    rm -f "$OLD/.sums"
}

left() { # FOLDER NUMBER
    decoded "$1"
    for n in "$n/.restoring-$ID.$2" "$n/.restoring-$ID.$2"[-.]*; do
        ! is_there "$n" || say "    $n"
    done
}
"""

SWAP = r"""
begin() { : >"$OLD/.begun-$1"; } # go-back.sh touches only what was begun

aside() { # TARGET NAME: renamed; from another file system copied, and only then gone; noted, where it was gone before
    decoded "$1"
    was=$n
    decoded "$2"
    if ! is_there "$was"; then
        mkdir -p "$OLD/.none/$n"
        : >"$OLD/.none/$n/.gone"
        return 0
    fi
    case $n in */*) mkdir -p "$OLD/${n%/*}" ;; esac
    mv "$was" "$OLD/.moving"
    mv "$OLD/.moving" "$OLD/$n"
}

put() { # NUMBER TARGET [SUFFIX]
    decoded "$2"
    new=${n%/*}/.restoring-$ID.$1${3-}
    ! is_there "$n${3-}" || stop 17 "$2${3-} came into being meanwhile"
    is_there "$new" || return 0
    mv "$new" "$n${3-}"
}
"""

GO_BACK = r"""#!/bin/sh
# Go back to what was there before the restore: what was restored moves to undone/ beside this file, the old things to
# their places. Stop DocMind first. It deletes nothing. Collections that the restore made stay on the server.
set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")"
OLD=$PWD
umask 077
"""

BACK = r"""
back() { # NUMBER folder|file|nothing TARGET NAME
    is_there "$OLD/.begun-$1" || return 0
    decoded "$3"
    target=$n
    decoded "$4"
    was=$2
    [ ! -f "$OLD/.none/$n/.gone" ] || was=nothing
    if [ "$was" != nothing ] && ! is_there "$OLD/$n"; then # it never left, or is on its way
        if is_there "$OLD/.moving" && is_there "$target"; then
            printf '%s\n' "$3 was being moved: compare it with $OLD/.moving by hand"
        elif is_there "$OLD/.moving"; then
            mv "$OLD/.moving" "$target"
        fi
        return 0
    fi
    if is_there "$target"; then
        case $n in */*) mkdir -p "$OLD/undone/${n%/*}" ;; *) mkdir -p "$OLD/undone" ;; esac
        mv "$target" "$OLD/undone/$n"
    fi
    if [ "$was" != nothing ]; then mv "$OLD/$n" "$target"; fi
}

gone_back() { rm -f "$OLD/.begun-$1"; }
"""
