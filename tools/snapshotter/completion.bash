# SPDX-License-Identifier: Apache-2.0
# bash completion for fastoci-snapshotter: commands and options as its --help lists them.
# shellcheck disable=SC2207 # no word of these has a space
_fastoci_snapshotter() {
	# shellcheck disable=SC2034 # set by _init_completion
	local cur prev words cword
	_init_completion || return
	local command=${words[1]}
	case $prev in
	--root | --state-dir) _filedir -d; return ;;
	--config | --file | --credentials | --root-ca | --node-config | --address | --control | --cache-device | -o | --output) _filedir; return ;;
	--referrers) COMPREPLY=($(compgen -W 'off cri all' -- "$cur")); return ;;
	esac
	if [[ $cword == 1 ]]; then
		COMPREPLY=($(compgen -W 'serve setup uninstall-check rpull record' -- "$cur"))
	elif [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$(fastoci-snapshotter "$command" --help 2>/dev/null |
			sed -n 's/^  \(-[^ ]*\).*/\1/p' | tr ',' ' ')" -- "$cur"))
	fi
} && complete -F _fastoci_snapshotter fastoci-snapshotter
