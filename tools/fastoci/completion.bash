# SPDX-License-Identifier: Apache-2.0
# bash completion for fastoci: commands and options as `fastoci --help` lists
# them, names of images from the state directory and the device-mapper.
_fastoci() {
	local cur prev words cword
	_init_completion || return
	local word command='' i
	for ((i = 1; i < cword; i++)); do
		word=${words[i]}
		case $word in
		--state-dir | --control) ((i++)) ;;
		-*) ;;
		*) command=$word; break ;;
		esac
	done
	case $prev in
	--state-dir | --mount) _filedir -d; return ;;
	--control | --meta-image | --credentials | --root-ca | --decoder | -o | --output) _filedir; return ;;
	--cache-device) COMPREPLY=($(compgen -f -- "${cur:-/dev/}")); return ;;
	--name | --fail-after-ms | --after-ms | --timeout-ms | -u | --username) return ;;
	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$(fastoci $command --help 2>/dev/null |
			grep -oE '(^|[ ,])--?[a-z][a-z-]*' | tr -d ' ,')" -- "$cur"))
	elif [[ -z $command ]]; then
		COMPREPLY=($(compgen -W "$(fastoci --help 2>/dev/null |
			sed -n '/^Subcommands:/,/^$/s/^  \([a-z]*\) .*/\1/p')" -- "$cur"))
	else
		case $command in
		mount | umount | detach | status | fail | hold)
			if [[ $command == mount && $prev != mount ]]; then _filedir -d; return; fi
			COMPREPLY=($(compgen -W "$(ls /var/lib/fastoci/images 2>/dev/null)" -- "$cur"))
			;;
		esac
	fi
} && complete -F _fastoci fastoci
